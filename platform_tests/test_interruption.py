"""Interrupted trials of all kinds go on where they were and end with the same weights; nothing half-written counts."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import psutil
import pytest

from platform_assets.executors import KILLED
from platform_assets.vision.training.state import STATE_FILE
from platform_tests.components.projects import give_database, write_images
from platform_tests.processes import (
    Running,
    copied,
    done,
    edit,
    instance_of,
    launch_backfill,
    started,
    until,
    user_interface,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EPOCHS = {"scratch": 40, "finetune": 18, "two_processes": 40}
NETWORKS = {
    "scratch": {"backbone": "baseline_cnn", "mode": "scratch"},
    "finetune": {"backbone": "tf_efficientnet_lite0", "mode": "finetune"},
    "two_processes": {"backbone": "baseline_cnn", "mode": "scratch"},
}
# Each is interrupted in every way, one way a run, before the next is begun.
TRIALS = tuple(f"{variant}__s0" for variant in NETWORKS)
# What the button "Terminate" of the UI sends (dagster 1.13.27).
TERMINATE = """mutation ($runIds: [String!]!) {
  terminateRuns(runIds: $runIds) {
    __typename
    ... on TerminateRunsResult { terminateRunResults { __typename ... on TerminateRunSuccess { run { runId } } } }
  }
}"""
EXPERIMENT = ("kestrel", "materialize", "photos/first")
# Starts a run and interrupts it once an epoch of a trial is done.
Interrupt = Callable[[str], None]


def _variants() -> dict[str, dict[str, Any]]:
    several = {"two_processes": {"devices": 2, "strategy": "ddp"}}
    shared = {"warmup_epochs": 0}
    return {
        name: {
            **network,
            "image_size_px": 48,
            "train": {**shared, "epochs": EPOCHS[name], "patience_epochs": EPOCHS[name], **several.get(name, {})},
        }
        for name, network in NETWORKS.items()
    }


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """In all commands: on a busy machine two threads on pictures this small wait for each other forty times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A project whose dataset is there, and nothing of its experiment, whose trials train for some seconds."""
    folder = tmp_path_factory.mktemp("interrupted")
    images = write_images(folder / "images")
    done(folder, "kestrel", "init", "prepared", "--images", str(images))
    project = folder / "prepared"
    waiver = {"tf_efficientnet_lite0": {"reason": "its accuracy is not looked at", "date": "2026-11-30"}}
    edit(project, "photos_first", seeds=[0], variants=_variants(), baseline="scratch", without_probe=waiver)
    give_database(project, mlflow_database)
    done(project, "kestrel", "materialize", "photos")
    return project


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The checkpoint ids of trainings that nobody disturbed, by trial."""
    project = copied(prepared, tmp_path_factory.mktemp("whole") / "project")
    done(project, *EXPERIMENT)
    assert set(_resumed(project).values()) == {0}
    return _checkpoints(project)


def _rows(project: Path) -> dict[str, dict[str, Any]]:
    files = (project / "data/tables/photos/first/checkpoint").glob("*.parquet")
    return {path.stem: pl.read_parquet(path).row(0, named=True) for path in files}


def _checkpoints(project: Path) -> dict[str, str]:
    return {trial: str(row["checkpoint_id"]) for trial, row in _rows(project).items()}


def _resumed(project: Path) -> dict[str, int]:
    """The epochs that a trial went on after."""
    folders = {trial: Path(row["folder_url"]) for trial, row in _rows(project).items()}
    return {trial: json.loads((at / "fit.json").read_text())["resumed_from_epoch"] for trial, at in folders.items()}


def _taken_for_finished(project: Path) -> set[str]:
    """The trials of the experiment that a reader would find a result of; "another" stands for anything else."""
    data = project / "data"
    folders = [path for path in (data / "outputs").iterdir() if path.name != "_working"]
    known = {row["folder_url"]: trial for trial, row in _rows(project).items()}
    manifests = [path.parent for folder in folders for path in folder.rglob("MANIFEST.json")]
    assert not list((data / "outputs/_working").rglob("MANIFEST.json"))
    tables = [path.stem for path in (data / "tables/photos/first").rglob("*.parquet")]
    others = ["another" for _ in (data / "cards").rglob("first/*")]
    return {*tables, *others, *(known.get(str(path), "another") for path in manifests)}


def _statuses(project: Path) -> list[str]:
    """Of the runs of the experiment, the first one first."""
    with instance_of(project) as instance:
        return [run.status.value for run in reversed(_runs(instance))]


def _runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    checkpoint = dg.AssetKey(["photos", "first", "checkpoint"])
    return [run for run in instance.get_runs() if checkpoint in (run.asset_selection or ())]


def _ended(trial: str, epoch: str = r"\d+") -> str:
    """What is said of an epoch."""
    return rf"{trial}: epoch {epoch} of \d+, train loss"


@contextmanager
def _training(project: Path, trial: str) -> Iterator[Running]:
    with started(project, *EXPERIMENT) as running:
        ended = re.compile(_ended(trial))
        until(
            lambda: ended.search(running.said) or running.process.poll() is not None, 120, lambda: running.said[-3000:]
        )
        assert running.process.poll() is None, running.said[-3000:]
        yield running


def _exception(project: Path, trial: str) -> None:
    """Something is in the way of the next save, as a full disk would be."""
    with _training(project, trial) as running:
        (state,) = (project / "data/outputs/_working").rglob(STATE_FILE)
        place = state.with_suffix(".partial")
        until(lambda: _made(place) or running.process.poll() is not None, 30, lambda: running.said[-3000:])
        assert running.process.wait(60) == 1
        place.rmdir()
        assert "IsADirectoryError" in running.said


def _made(folder: Path) -> bool:
    """False while a save is under way, whose file has that name."""
    with suppress(FileExistsError):
        folder.mkdir()
        return True
    return False


def _sigkill_of_the_step(project: Path, trial: str) -> None:
    environment = project / ".env"
    before = environment.read_text()
    environment.write_text(before + "KESTREL_EXECUTOR=multiprocess\n")  # by default a run is its step
    with _training(project, trial) as running:
        step = _step(project)
        assert step.pid != running.process.pid
        step.kill()
        assert running.process.wait(60) == 1
    environment.write_text(before)


def _step(project: Path) -> psutil.Process:
    """What trains, or has two ranks train."""
    with instance_of(project) as instance:
        (run,) = instance.get_runs(limit=1)
        event = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START)[-1].dagster_event
    assert event is not None
    return psutil.Process(event.pid)


def _sigkill_of_the_run(project: Path, trial: str) -> None:
    with _training(project, trial) as running:
        running.process.kill()
        assert running.process.wait(10) == -signal.SIGKILL


def _ctrl_c(project: Path, trial: str) -> None:
    began = time.monotonic()
    with _training(project, trial) as running:
        asked = time.monotonic()
        running.process.send_signal(signal.SIGINT)
        until(lambda: running.process.poll() is not None, 30, lambda: running.said[-3000:])
        code = running.process.returncode
        to_start, to_exit = asked - began, time.monotonic() - asked
        print(f"{trial}: {to_start:.2f} s to train, Ctrl-C to exit {to_exit:.2f} s")
        # Idle 3 to 7 s (2026-11); what slows the exit down, slows the start.
        assert code != 0, f"{code}: {running.said[-2000:]}"
        assert to_exit < to_start, running.said[-2000:]
        assert "Stopped by request. Finished trials and epochs are kept." in running.said


@contextmanager
def _terminating(project: Path) -> Iterator[Interrupt]:
    """The button in the UI, on runs that its backfills start."""
    with (
        started(project, "dagster-daemon", "run", "-w", "workspace.yaml") as daemon,
        user_interface(project) as ask,
        instance_of(project) as instance,
    ):

        def terminate(trial: str) -> None:
            before, ended = len(instance.get_runs()), re.compile(_ended(trial))
            launch_backfill(ask, ["photos/first/checkpoint"], TRIALS)
            until(
                lambda: len(instance.get_runs()) > before and ended.search(_logged(instance)),
                120,
                lambda: (_logged(instance)[-2000:], daemon.said[-2000:]),
            )
            answer = ask(TERMINATE, runIds=[instance.get_runs(limit=1)[0].run_id])
            assert "TerminateRunSuccess" in answer, answer
            until(lambda: instance.get_runs(limit=1)[0].is_finished, 60, lambda: _logged(instance)[-2000:])

        yield terminate
        daemon.process.terminate()
        daemon.process.wait(30)


def _logged(instance: dg.DagsterInstance) -> str:
    return "\n".join(_messages(instance, run) for run in instance.get_runs(limit=1))


def _messages(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    return "\n".join(entry.message for entry in instance.all_logs(run.run_id))


# The status of the run as soon as it is interrupted, and after the next one has begun.
KINDS = {
    "terminate": ("CANCELED", "CANCELED"),
    "exception": ("FAILURE", "FAILURE"),
    "sigkill_of_the_step": ("FAILURE", "FAILURE"),
    "ctrl_c": ("FAILURE", "FAILURE"),
    "sigkill_of_the_run": ("STARTED", "FAILURE"),
}


def test_interrupted__trials_go_on_after_every_kind_and_end_with_the_same_weights(
    prepared: Path, uninterrupted: dict[str, str], tmp_path: Path
) -> None:
    """A killed run stayed STARTED and kept its pool slot: the next one waited for it for ever."""
    project, statuses = copied(prepared, tmp_path / "interrupted"), list[str]()
    with _terminating(project) as terminate:
        ways: list[Interrupt] = [
            terminate,
            *(partial(way, project) for way in (_exception, _sigkill_of_the_step, _ctrl_c, _sigkill_of_the_run)),
        ]
        for number, trial in enumerate(TRIALS):
            for (kind, (at_once, afterwards)), interrupt in zip(KINDS.items(), ways, strict=True):
                began = time.monotonic()
                interrupt(trial)
                print(f"{trial}, {kind}: {time.monotonic() - began:.1f} s")
                assert _taken_for_finished(project) == set(TRIALS[:number]), kind
                assert _statuses(project) == [*statuses, at_once], kind
                statuses.append(afterwards)
    said = done(project, *EXPERIMENT, "--trial", TRIALS[-1])
    assert "was killed; it is now marked as failed" in said
    assert _checkpoints(project) == uninterrupted
    assert _statuses(project) == [*statuses, "SUCCESS"]
    _assert_no_epoch_twice(project)


def _assert_no_epoch_twice(project: Path) -> None:
    """Over all runs, each of which has seen a trial; and who was killed is told so."""
    with instance_of(project) as instance:
        logs = [_messages(instance, run) for run in reversed(_runs(instance))]
    killed = [*([kind == "sigkill_of_the_run" for kind in KINDS] * len(TRIALS)), False]
    assert [KILLED in log for log in logs] == killed
    for variant, epochs in EPOCHS.items():
        ended = [int(epoch) for log in logs for epoch in re.findall(_ended(f"{variant}__s0", r"(\d+)"), log)]
        # SIGKILL may come between an epoch's save and its line.
        assert ended == sorted(set(ended)), variant
        assert ended[-1] == epochs
        assert len(ended) > epochs - len(KINDS)
