"""MLflow: one run per trial however often and by whomever it is recorded."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from platform_assets.stores.mlflow_database import load_mlflow
from platform_assets.stores.runs import EpochMetrics, RunConflict, Runs, TrialRun

PREPARE = "import sys; from platform_assets.stores.runs import Runs; Runs(sys.argv[1], None).prepare()"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that two processes prepared at the same time."""
    database = tmp_path_factory.mktemp("mlflow") / "new folder" / "mlflow.db"
    command = [sys.executable, "-c", PREPARE, f"sqlite:///{database}"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return database


@pytest.fixture
def runs(prepared: Path, tmp_path: Path) -> Runs:
    shutil.copy2(prepared, tmp_path / "mlflow.db")
    return Runs(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))


def client(runs: Runs) -> Any:
    return load_mlflow().MlflowClient(runs.tracking_uri)


def all_runs(runs: Runs) -> list[Any]:
    mlflow = client(runs)
    return list(mlflow.search_runs([experiment.experiment_id for experiment in mlflow.search_experiments()]))


def trial(**changes: Any) -> TrialRun:
    plain = TrialRun(
        experiment="elpv/binary",
        asset="elpv/binary/checkpoint",
        partition="probe__s0",
        config_hash="c" * 64,
        data_version="d" * 64,
        dagster_run_id="0b7c",
        status="FINISHED",
        started_ms=1_700_000_000_000,
        ended_ms=1_700_000_060_000,
        checkpoint_id="0123456789abcdef",
        folder_url="/outputs/0b7c/c/0123456789abcdef",
        params={"backbone": "tf_efficientnet_lite0", "seed": 0, "image_size_px": None},
        history=(EpochMetrics(epoch=0, metrics={"loss": 0.9}), EpochMetrics(epoch=1, metrics={"loss": 0.5})),
        metrics={"val_top1": 0.86},
        files={"config.json": b"{}", "plots/curve.png": b"\x89PNG"},
    )
    return TrialRun.model_validate({**plain.model_dump(), **changes})


def unfinished(status: str, **changes: Any) -> TrialRun:
    return trial(status=status, checkpoint_id=None, folder_url=None, metrics={}, **changes)


def test_prepare__two_processes_leave_one_whole_database(prepared: Path) -> None:
    with sqlite3.connect(prepared) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"runs", "experiments", "registered_models"} <= tables
    assert not [name for name in tables if name.startswith("_alembic_tmp")]
    assert sorted(path.name for path in prepared.parent.iterdir()) == ["kestrel-locks", "mlflow.db"]


def test_prepare__older_database_is_migrated_and_kept(runs: Runs, tmp_path: Path) -> None:
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    runs.record_trial(trial())
    command.downgrade(_get_alembic_config(runs.tracking_uri), "-1")
    Runs(runs.tracking_uri, None).prepare()
    assert [run.data.metrics["val_top1"] for run in all_runs(runs)] == [0.86]
    assert len(list(tmp_path.glob("mlflow.db.*.backup"))) == 1


def test_load_mlflow__telemetry_is_off_and_pickles_are_refused() -> None:
    from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION
    from mlflow.telemetry import get_telemetry_client

    load_mlflow()
    assert get_telemetry_client() is None
    assert MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False


def test_import__loads_neither_mlflow_nor_dagster() -> None:
    code = "import sys, platform_assets.stores.runs; print(sorted({'mlflow', 'dagster', 'torch'} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_record_trial__a_search_is_the_parent_of_its_trials(runs: Runs) -> None:
    without = {"leaves_checkpoint": False, "checkpoint_id": None, "folder_url": None}
    parent = runs.record_trial(trial(partition="tuning_rates", **without))
    children = [
        runs.record_trial(trial(partition=f"tuning_rates__{number}", parent_run_id=parent, **without))
        for number in range(2)
    ]
    found = client(runs).search_runs(
        [client(runs).get_experiment_by_name("elpv/binary").experiment_id], f"tags.mlflow.parentRunId = '{parent}'"
    )
    assert {run.info.run_id for run in found} == set(children)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert "mlflow.parentRunId" not in client(runs).get_run(parent).data.tags
    with pytest.raises(ValidationError, match="FINISHED needs checkpoint_id"):
        trial(**{**without, "leaves_checkpoint": True})


def test_record_trial__everything_stands_in_the_run(runs: Runs) -> None:
    run = client(runs).get_run(runs.record_trial(trial()))
    assert run.info.status == "FINISHED"
    assert (run.info.start_time, run.info.end_time) == (1_700_000_000_000, 1_700_000_060_000)
    assert run.info.run_name == "probe__s0"
    assert run.data.params == {"backbone": "tf_efficientnet_lite0", "seed": "0", "image_size_px": "None"}
    assert run.data.metrics == {"val_top1": 0.86, "loss": 0.5}
    expected = {"asset": "elpv/binary/checkpoint", "partition": "probe__s0", "dagster_run_id": "0b7c"}
    assert expected.items() <= run.data.tags.items()
    assert run.data.tags["folder_url"] == "/outputs/0b7c/c/0123456789abcdef"


def test_record_trial__history_has_one_point_per_epoch(runs: Runs) -> None:
    history = client(runs).get_metric_history(runs.record_trial(trial()), "loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.9), (1, 0.5)]


def test_record_trial__small_files_lie_under_the_artifact_root(runs: Runs, tmp_path: Path) -> None:
    run_id = runs.record_trial(trial())
    folder = tmp_path / "artifacts" / "elpv" / "binary" / run_id / "artifacts"
    assert (folder / "plots" / "curve.png").read_bytes() == b"\x89PNG"


def test_record_trial__leaves_no_active_run_and_no_global_uri(runs: Runs) -> None:
    before = load_mlflow().get_tracking_uri()
    runs.record_trial(trial())
    assert load_mlflow().active_run() is None
    assert load_mlflow().get_tracking_uri() == before


def test_record_trial__again_changes_nothing(runs: Runs) -> None:
    first = runs.record_trial(trial(metrics={"val_top1": 0.86, "ece": math.nan}))
    second = runs.record_trial(trial(metrics={"val_top1": 0.86, "ece": math.nan}, started_ms=1_700_000_000_500))
    assert first == second
    assert len(all_runs(runs)) == 1
    for name, points in (("loss", 2), ("val_top1", 1), ("ece", 1)):
        assert len(client(runs).get_metric_history(first, name)) == points


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_record_trial__retry_after_a_failure_continues_the_run(runs: Runs, status: str) -> None:
    early = (EpochMetrics(epoch=0, metrics={"loss": 0.9}),)
    first = runs.record_trial(unfinished(status, history=early))
    assert client(runs).get_run(first).info.status == status
    assert runs.record_trial(trial()) == first
    assert client(runs).get_run(first).info.status == "FINISHED"
    assert len(client(runs).get_metric_history(first, "loss")) == 2


def test_record_trial__run_left_by_a_killed_process_is_completed(runs: Runs) -> None:
    left = client(runs).create_experiment("elpv/binary", artifact_location=f"{runs.artifact_root}/left")
    run = client(runs).create_run(left, tags=trial().identity)
    assert runs.record_trial(trial()) == run.info.run_id
    assert client(runs).get_run(run.info.run_id).info.status == "FINISHED"


def test_record_trial__finished_run_is_not_overwritten_by_another_result(runs: Runs) -> None:
    finished = runs.record_trial(trial())
    other = runs.record_trial(trial(checkpoint_id="f" * 16, metrics={"val_top1": 0.9}))
    failed = runs.record_trial(unfinished("FAILED"))
    assert len({finished, other, failed}) == 3
    assert client(runs).get_run(finished).data.metrics["val_top1"] == 0.86
    assert runs.record_trial(trial()) == finished


@pytest.mark.parametrize("field", ["asset", "partition", "config_hash", "data_version", "experiment"])
def test_record_trial__other_identity_is_another_run(runs: Runs, field: str) -> None:
    assert runs.record_trial(trial()) != runs.record_trial(trial(**{field: "other"}))


def test_record_trial__changed_param_under_one_config_hash_is_refused(runs: Runs) -> None:
    runs.record_trial(trial())
    with pytest.raises(RunConflict, match="param seed is '0', now '1'"):
        runs.record_trial(trial(params={"seed": 1}))


def test_record_trial__long_history_and_many_params(runs: Runs) -> None:
    history = tuple(EpochMetrics(epoch=epoch, metrics={"loss": 1 / (epoch + 1)}) for epoch in range(1200))
    run_id = runs.record_trial(trial(history=history, params={f"p{index}": index for index in range(150)}))
    assert len(client(runs).get_metric_history(run_id, "loss")) == 1200
    assert len(client(runs).get_run(run_id).data.params) == 150


def test_record_trial__deleted_experiment_comes_back(runs: Runs) -> None:
    run_id = runs.record_trial(trial())
    experiment_id = client(runs).get_run(run_id).info.experiment_id
    client(runs).delete_experiment(experiment_id)
    again = runs.record_trial(trial(partition="probe__s1"))
    assert client(runs).get_run(again).info.experiment_id == experiment_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"loss": 0.5}}, "are in history too"),
        ({"checkpoint_id": None}, "FINISHED needs checkpoint_id"),
        ({"files": {"big": b"x" * 1_048_577}}, "add it to the outputs folder"),
        ({"files": {"../x": b""}}, "not a relative POSIX name"),
        ({"partition": "a' or '1'='1"}, "should match pattern"),
        ({"status": "PAUSED"}, "Input should be 'RUNNING'"),
        ({"learning_rate": 1}, "Extra inputs are not permitted"),
    ],
)
def test_trial_run__bad_record_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        trial(**changes)


def in_two_processes(runs: Runs, acts: list[Callable[[], object]]) -> None:
    """Runs each act in two processes at the same moment."""
    load_mlflow()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)

    def child() -> None:
        runs.champion("opens the connection")
        for act in acts:
            barrier.wait(timeout=60)
            act()
        os._exit(0)

    processes = [context.Process(target=child) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def test_record_trial__two_processes_make_one_run(runs: Runs) -> None:
    trials = [trial(partition=f"probe__s{seed}") for seed in range(4)]
    in_two_processes(runs, [partial(runs.record_trial, each) for each in trials])
    assert sorted(run.data.tags["partition"] for run in all_runs(runs)) == [each.partition for each in trials]


def test_register__two_processes_make_one_version(runs: Runs) -> None:
    in_two_processes(runs, [partial(runs.register, "m", f"/outputs/{name}", "r" * 32, {}) for name in "abcd"])
    versions = client(runs).search_model_versions("name='m'")
    assert sorted(version.source for version in versions) == [f"/outputs/{name}" for name in "abcd"]


def test_run_url__leads_to_the_run(runs: Runs) -> None:
    run_id = runs.record_trial(trial())
    experiment_id = client(runs).get_run(run_id).info.experiment_id
    assert runs.run_url(run_id) == f"http://127.0.0.1:5000/#/experiments/{experiment_id}/runs/{run_id}"


def test_record_trial__running_run_is_ended_by_the_same_trial(runs: Runs) -> None:
    run_id = runs.record_trial(unfinished("RUNNING", history=()))
    assert client(runs).get_run(run_id).info.status == "RUNNING"
    assert client(runs).get_run(run_id).info.end_time is None
    assert runs.record_trial(trial()) == run_id
    assert client(runs).get_run(run_id).info.status == "FINISHED"


def test_record_trial__a_failed_run_is_running_again_when_it_is_resumed(runs: Runs) -> None:
    run_id = runs.record_trial(unfinished("FAILED", history=()))
    assert runs.record_trial(unfinished("RUNNING", history=())) == run_id
    assert client(runs).get_run(run_id).info.status == "RUNNING"
