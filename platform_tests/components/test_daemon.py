"""A live daemon over a new project: an unchanged source asks for nothing, one added image for what is behind it."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData, TickStatus

from platform_tests.commands import done, instance_of, started, until
from platform_tests.components.projects import write_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SENSORS = {"photos_new_dataset_version", "default_automation_condition_sensor"}
BEHIND_THE_IMAGES = {"source", "records", "rejected", "label_map", "tiny_subset", "profile", "data_card"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A new project whose dataset is materialized once."""
    images = write_images(tmp_path / "images", per_class=8)
    done(tmp_path, "kestrel", "init", "project", "--images", str(images))
    done(tmp_path / "project", "kestrel", "materialize", "photos")
    return tmp_path / "project"


@pytest.fixture
def watched(project: Path) -> Iterator[dg.DagsterInstance]:
    """Its instance, both sensors switched on and a daemon running."""
    for sensor in sorted(SENSORS):
        done(project, "dagster", "sensor", "start", sensor, "-w", "workspace.yaml")
    with instance_of(project) as instance, started(project, "dagster-daemon", "run", "-w", "workspace.yaml") as daemon:
        yield instance
        daemon.process.terminate()
        daemon.process.wait(30)


def _states(instance: dg.DagsterInstance) -> dict[str, InstigatorState]:
    return {state.instigator_name: state for state in instance.all_instigator_state()}


def _finished_ticks(instance: dg.DagsterInstance, state: InstigatorState) -> int:
    """How many there are; 0 while one is under way."""
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
    assert not [tick.error for tick in ticks if tick.status == TickStatus.FAILURE]
    return 0 if any(tick.status == TickStatus.STARTED for tick in ticks) else len(ticks)


def _a_minute_passes(instance: dg.DagsterInstance) -> None:
    """For sensors at rest: their last tick is a minute older, and so the next is due now."""
    for state in _states(instance).values():
        data = state.instigator_data
        assert isinstance(data, SensorInstigatorData)
        last = data.last_tick_start_timestamp or 0.0
        if _finished_ticks(instance, state) and time.time() - last < 20:
            older = data._replace(last_tick_start_timestamp=last - 60, last_tick_timestamp=last - 60)
            instance.update_instigator_state(state.with_data(older))


def _both_tick_again(instance: dg.DagsterInstance) -> None:
    def ticks() -> dict[str, int]:
        return {name: _finished_ticks(instance, state) for name, state in _states(instance).items()}

    before = ticks()
    assert before.keys() == SENSORS
    _a_minute_passes(instance)
    until(lambda: all(count > before[name] for name, count in ticks().items()), 90, ticks)


def _asked_for(instance: dg.DagsterInstance) -> Counter[str]:
    """Every asset of every run of the daemon, by how often it was asked for."""
    runs = [run for run in instance.get_runs() if run.remote_job_origin]
    return Counter("/".join(key.path) for run in runs for key in run.asset_selection or ())


def _at_rest(instance: dg.DagsterInstance) -> bool:
    return all(run.is_finished for run in instance.get_runs())


def test_daemon__one_added_image_makes_the_dataset_again_and_nothing_else(
    watched: dg.DagsterInstance, tmp_path: Path
) -> None:
    for _ in range(3):
        _both_tick_again(watched)
    assert not _asked_for(watched)

    extra = next((write_images(tmp_path / "more", per_class=1, seed=5) / "red").iterdir())
    shutil.copy(extra, tmp_path / "images/red/one_more.png")
    wanted = {f"photos/{name}" for name in BEHIND_THE_IMAGES}

    def all_made() -> bool:
        _a_minute_passes(watched)
        return _asked_for(watched).keys() >= wanted and _at_rest(watched)

    until(all_made, 240, lambda: (_asked_for(watched), [run.status for run in watched.get_runs()]))
    _both_tick_again(watched)
    until(lambda: _at_rest(watched), 60, lambda: watched.get_runs())
    assert _asked_for(watched).keys() == wanted
    assert _asked_for(watched)["photos/source"] == 1
    assert {run.status for run in watched.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
    event = watched.get_latest_materialization_event(dg.AssetKey(["photos", "records"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["dagster/row_count"].value == 25
