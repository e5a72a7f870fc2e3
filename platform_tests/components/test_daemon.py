"""A live daemon over a new project: what it asks for by itself, and what the UI's button has it do."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorState, SensorInstigatorData, TickStatus

from platform_tests.components.projects import give_database, write_images
from platform_tests.processes import done, edit, instance_of, launch_backfill, started, until, user_interface

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SENSORS = {"photos_new_dataset_version", "default_automation_condition_sensor"}
BEHIND_THE_IMAGES = {
    *("source", "records", "rejected", "label_map", "near_duplicates"),
    *("changes", "image_issues", "tiny_subset", "profile", "data_card"),
}


CNN = {"backbone": "baseline_cnn", "mode": "scratch", "image_size_px": 32, "train": {"epochs": 1, "warmup_epochs": 0}}
TRIALS = ["cnn__s0", "cnn__s1", "again__s0", "again__s1"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A new project whose dataset is materialized once."""
    folder = tmp_path_factory.mktemp("daemon")
    images = write_images(folder / "images", per_class=8)
    done(folder, "kestrel", "init", "project", "--images", str(images))
    project = folder / "project"
    edit(project, "photos_first", baseline="cnn", variants={"cnn": CNN, "again": CNN}, gate={"minimum": 0.0})
    give_database(project, mlflow_database)
    done(project, "kestrel", "materialize", "photos")
    return project


@pytest.fixture(scope="module")
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
    watched: dg.DagsterInstance, project: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        _both_tick_again(watched)
    assert not _asked_for(watched)

    extra = next((write_images(tmp_path / "more", per_class=1, seed=5) / "red").iterdir())
    shutil.copy(extra, project.parent / "images/red/one_more.png")
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


def test_ui__materialize_all_makes_an_experiment_whole(watched: dg.DagsterInstance, project: Path) -> None:
    names = ("checkpoint", "predictions", "metrics", "leaderboard", "champion", "exports", "model_card")
    with user_interface(project) as ask:
        launch_backfill(ask, [f"photos/first/{name}" for name in names], TRIALS)
    (backfill,) = watched.get_backfills()

    def ended() -> bool:
        found = watched.get_backfill(backfill.backfill_id)
        return found is not None and found.status.value.startswith(("COMPLETED", "FAILED", "CANCELED"))

    until(ended, 240, lambda: [(run.status, run.asset_selection) for run in watched.get_runs()])
    runs = [run for run in watched.get_runs() if run.tags.get("dagster/backfill") == backfill.backfill_id]
    assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * 2
    made = {"/".join(key.path[2:]) for run in runs for key in run.asset_selection or ()}
    assert made == set(names)
    tables = project / "data/tables/photos/first"
    assert sorted(path.stem for path in (tables / "metrics").glob("*.parquet")) == sorted(TRIALS)
    assert (project / "data/cards/photos/first/model_card.md").is_file()
