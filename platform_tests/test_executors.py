"""Runs whose process is gone are ended by the next one, and those that live are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.run_coordinator import SubmitRunContext
from dagster._core.test_utils import create_run_for_test
from filelock import FileLock, Timeout

from platform_assets.executors import EXECUTORS, KILLED, alive, end_dead_runs

POOL = "accelerator"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        instance.event_log_storage.set_concurrency_slots(POOL, 1)
        yield instance


def _started_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus = dg.DagsterRunStatus.STARTED) -> str:
    """A run that holds the one slot of the pool."""
    run_id = create_run_for_test(instance, status=status).run_id
    instance.event_log_storage.claim_concurrency_slot(POOL, run_id, "trials")
    return run_id


def _kill(instance: dg.DagsterInstance, run_id: str) -> None:
    """What a killed process leaves: its file, and no lock on it."""
    folder = Path(instance.root_directory) / "alive"
    folder.mkdir(exist_ok=True)
    (folder / f"{run_id}.run").touch()


def _holders(instance: dg.DagsterInstance) -> list[str]:
    info = instance.event_log_storage.get_concurrency_info(POOL)
    return sorted({step.run_id for step in [*info.claimed_slots, *info.pending_steps]})


def test_end_dead_runs__a_killed_run_is_failed_and_its_slot_free(instance: dg.DagsterInstance) -> None:
    run_id = _started_run(instance)
    _kill(instance, run_id)
    assert _holders(instance) == [run_id]
    assert end_dead_runs(instance) == [run_id]
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert KILLED in [entry.message for entry in instance.all_logs(run_id)]
    assert _holders(instance) == []
    assert end_dead_runs(instance) == []


def test_end_dead_runs__one_killed_while_it_waited_does_not_get_the_slot_next(instance: dg.DagsterInstance) -> None:
    holder, waiting = _started_run(instance), _started_run(instance)
    assert _holders(instance) == sorted([holder, waiting])
    _kill(instance, waiting)
    assert end_dead_runs(instance) == [waiting]
    assert _holders(instance) == [holder]


def test_end_dead_runs__a_living_run_and_one_of_another_machine_are_left_alone(instance: dg.DagsterInstance) -> None:
    living, elsewhere = _started_run(instance), _started_run(instance)
    with alive(instance, living):
        assert end_dead_runs(instance) == []
    assert end_dead_runs(instance) == []
    statuses = {run.run_id: run.status for run in instance.get_runs()}
    assert statuses == {living: dg.DagsterRunStatus.STARTED, elsewhere: dg.DagsterRunStatus.STARTED}


def test_end_dead_runs__a_finished_run_keeps_its_status_and_loses_its_slot(instance: dg.DagsterInstance) -> None:
    run_id = _started_run(instance, dg.DagsterRunStatus.SUCCESS)
    _kill(instance, run_id)
    assert end_dead_runs(instance) == []
    run = instance.get_run_by_id(run_id)
    assert run is not None
    assert run.status == dg.DagsterRunStatus.SUCCESS
    assert _holders(instance) == []


def test_alive__holds_its_lock_and_leaves_nothing_behind(instance: dg.DagsterInstance) -> None:
    path = Path(instance.root_directory) / "alive/some-run.run"
    with alive(instance, "some-run"), pytest.raises(Timeout):
        FileLock(path).acquire(blocking=False)
    assert not path.exists()


@dg.asset
def small() -> None:
    """Nothing."""


def test_watched_executor__runs_the_steps_and_says_which_run_it_ended(instance: dg.DagsterInstance) -> None:
    dead = _started_run(instance)
    _kill(instance, dead)
    definitions = dg.Definitions([small], executor=EXECUTORS["in_process"])
    job = definitions.resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job)

    assert execute_run(InMemoryJob(job), run, instance).success
    assert any(dead[:8] in entry.message for entry in instance.all_logs(run.run_id))


def test_run_queue__ends_dead_runs_before_it_takes_the_next(tmp_path: Path) -> None:
    """A run from a shell was killed, and what the UI started after it stayed queued for ever."""
    queue = {"module": "platform_assets.run_queue", "class": "WatchedRunQueue"}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"run_coordinator": queue}) as instance:
        instance.event_log_storage.set_concurrency_slots(POOL, 1)
        killed = _started_run(instance)
        _kill(instance, killed)
        # One that was handed in before: a new one would need a code location.
        asked = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTING)
        instance.run_coordinator.submit_run(SubmitRunContext(asked, workspace=None))  # type: ignore[arg-type, union-attr]
        run = instance.get_run_by_id(killed)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert _holders(instance) == []
