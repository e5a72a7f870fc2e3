"""Killed and stopped trainings go on where they were and end with the same weights; nothing half-written counts."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psutil
import pytest

from platform_assets.executors import KILLED
from platform_tests.components.projects import give_database, write_images
from platform_tests.processes import copied, done, edit, instance_of, launch_backfill, started, until, user_interface

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CNN = {"backbone": "baseline_cnn", "mode": "scratch", "image_size_px": 48}
TRAIN = {"epochs": 15, "patience_epochs": 15, "warmup_epochs": 0}
# What the button "Terminate" of the UI sends (dagster 1.13.27).
TERMINATE = """mutation ($runIds: [String!]!) {
  terminateRuns(runIds: $runIds) {
    __typename
    ... on TerminateRunsResult { terminateRunResults { __typename ... on TerminateRunSuccess { run { runId } } } }
  }
}"""
EXPERIMENT = ("kestrel", "materialize", "photos/first")
TRIAL = (*EXPERIMENT, "--trial", "cnn__s0")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A project whose dataset is there, and nothing of its experiment, which trains for some seconds."""
    folder = tmp_path_factory.mktemp("interrupted")
    images = write_images(folder / "images")
    done(folder, "kestrel", "init", "prepared", "--images", str(images))
    project = folder / "prepared"
    edit(project, "photos_first", seeds=[0], variants={"cnn": {**CNN, "train": TRAIN}})
    give_database(project, mlflow_database)
    done(project, "kestrel", "materialize", "photos")
    return project


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checkpoint id of a training that nobody disturbed."""
    project = copied(prepared, tmp_path_factory.mktemp("whole") / "project")
    done(project, *TRIAL)
    assert _fit(project)["resumed_from_epoch"] == 0
    return str(_row(project)["checkpoint_id"])


def _row(project: Path) -> dict[str, Any]:
    return pl.read_parquet(project / "data/tables/photos/first/checkpoint/cnn__s0.parquet").row(0, named=True)


def _fit(project: Path) -> dict[str, Any]:
    return dict(json.loads(Path(_row(project)["folder_url"], "fit.json").read_text()))


def _taken_for_finished(project: Path) -> list[Path]:
    """What a reader would take for a result of the experiment."""
    data = project / "data"
    folders = [path for path in (data / "outputs").iterdir() if path.name != "_working"]
    manifests = list((data / "outputs").rglob("MANIFEST.json"))
    return [
        *(folders + manifests),
        *(data / "tables/photos/first").rglob("*.parquet"),
        *(data / "cards").rglob("first/*"),
    ]


def _statuses(project: Path) -> list[str]:
    """Of the runs of the experiment, the first one first."""
    with instance_of(project) as instance:
        checkpoint = dg.AssetKey(["photos", "first", "checkpoint"])
        runs = [run for run in instance.get_runs() if checkpoint in (run.asset_selection or ())]
        return [run.status.value for run in reversed(runs)]


def test_sigkill__the_next_run_goes_on_and_ends_with_the_same_weights(
    prepared: Path, uninterrupted: str, tmp_path: Path
) -> None:
    """A killed run stayed STARTED and kept its pool slot: the next one waited for it for ever."""
    project = copied(prepared, tmp_path / "killed")
    with started(project, *EXPERIMENT) as running:
        running.until_it_says("epoch 2 of 15")
        running.process.kill()
        assert running.process.wait(10) == -signal.SIGKILL
    assert _taken_for_finished(project) == []
    assert _statuses(project) == ["STARTED"]
    said = done(project, *TRIAL)
    assert "was killed; it is now marked as failed" in said
    assert "epoch 2 of 15" not in said
    assert _fit(project)["resumed_from_epoch"] >= 2
    assert _row(project)["checkpoint_id"] == uninterrupted
    assert _statuses(project) == ["FAILURE", "SUCCESS"]
    with instance_of(project) as instance:
        killed = instance.get_runs()[1]
        assert KILLED in [entry.message for entry in instance.all_logs(killed.run_id)]


def test_sigkill_of_a_step__the_run_fails_and_the_next_one_goes_on(
    prepared: Path, uninterrupted: str, tmp_path: Path
) -> None:
    project = copied(prepared, tmp_path / "step")
    with (project / ".env").open("a") as file:
        file.write("KESTREL_EXECUTOR=multiprocess\n")  # by default a run is its step
    with started(project, *EXPERIMENT) as running:
        running.until_it_says("epoch 2 of 15")
        # What trains is the child that is busy; others count semaphores.
        children = psutil.Process(running.process.pid).children(recursive=True)
        max(children, key=lambda child: child.cpu_percent(0.3)).kill()
        assert running.process.wait(60) == 1
    assert _taken_for_finished(project) == []
    assert _statuses(project) == ["FAILURE"]
    _goes_on(project, uninterrupted)


def test_terminate__in_the_ui_stops_the_run_and_the_next_one_goes_on(
    prepared: Path, uninterrupted: str, tmp_path: Path
) -> None:
    project = copied(prepared, tmp_path / "terminated")
    with (
        started(project, "dagster-daemon", "run", "-w", "workspace.yaml") as daemon,
        user_interface(project) as ask,
        instance_of(project) as instance,
    ):
        launch_backfill(ask, ["photos/first/checkpoint"], ["cnn__s0"])
        until(
            lambda: "epoch 2 of 15" in _logged(instance), 120, lambda: (_logged(instance)[-2000:], daemon.said[-2000:])
        )
        run = _training(instance)
        answer = ask(TERMINATE, runIds=[run.run_id])
        assert "TerminateRunSuccess" in answer, answer
        until(lambda: _training(instance).is_finished, 60, lambda: _logged(instance)[-2000:])
        assert _training(instance).status == dg.DagsterRunStatus.CANCELED
        daemon.process.terminate()
        daemon.process.wait(30)
    assert _taken_for_finished(project) == []
    _goes_on(project, uninterrupted)


def _training(instance: dg.DagsterInstance) -> dg.DagsterRun:
    return instance.get_runs()[0]


def _logged(instance: dg.DagsterInstance) -> str:
    return "\n".join(entry.message for run in instance.get_runs(limit=1) for entry in instance.all_logs(run.run_id))


def _goes_on(project: Path, uninterrupted: str) -> None:
    """The next run trains what is left, to the weights of a training that nobody disturbed."""
    assert "epoch 2 of 15" not in done(project, *TRIAL)
    assert _fit(project)["resumed_from_epoch"] >= 2
    assert _row(project)["checkpoint_id"] == uninterrupted


def test_ctrl_c__stops_within_five_seconds_and_the_next_run_goes_on(
    prepared: Path, uninterrupted: str, tmp_path: Path
) -> None:
    project = copied(prepared, tmp_path / "stopped")
    with started(project, *EXPERIMENT) as running:
        running.until_it_says("epoch 2 of 15")
        asked = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        code = running.process.wait(30)
        seconds = time.monotonic() - asked
        said = running.said
    print(f"Ctrl-C to exit: {seconds:.2f} s")
    assert (code != 0, seconds < 5) == (True, True), f"exit code {code} after {seconds:.1f} s: {said[-2000:]}"
    assert "Stopped by request. Finished trials and epochs are kept." in said
    assert _taken_for_finished(project) == []
    assert _statuses(project) == ["FAILURE"]
    _goes_on(project, uninterrupted)
