"""All MLflow runs as a table: what plain SQL reads is what MLflow's own client says, and it is read again when it changed."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from platform_assets.stores import run_table
from platform_assets.stores.mlflow_database import load_mlflow
from platform_assets.stores.run_table import RunTable
from platform_assets.stores.runs import EpochMetrics, Runs, TrialRun


@pytest.fixture
def database(mlflow_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(mlflow_database, tmp_path / "mlflow #1.db"))


@pytest.fixture
def runs(database: Path, tmp_path: Path) -> Runs:
    return Runs(f"sqlite:///{database}", str(tmp_path / "artifacts"))


def record(runs: Runs, seed: int, *, experiment: str = "elpv/binary", top1: float = 0.5) -> str:
    return runs.record_trial(
        TrialRun(
            experiment=experiment,
            asset=f"{experiment}/checkpoint",
            partition=f"probe__s{seed}",
            config_hash="c" * 64,
            data_version="d" * 16,
            dagster_run_id="0b7c",
            status="FINISHED",
            started_ms=1_700_000_000_000 + seed,
            ended_ms=1_700_000_002_500 + seed,
            checkpoint_id=f"{seed:016x}",
            folder_url=f"/outputs/{seed}",
            params={"metric": "top1", "train.epochs": 3, "nothing": None},
            history=(
                EpochMetrics(epoch=0, metrics={"epoch_loss": 2.0}),
                EpochMetrics(epoch=1, metrics={"epoch_loss": 1.0}),
            ),
            metrics={"test_top1": top1, "broken": math.nan},
        )
    )


def read(runs: Runs, cache: Path) -> pl.DataFrame:
    return pl.read_parquet(RunTable(runs.tracking_uri, cache).refreshed())


def test_refreshed__has_a_row_a_run_with_its_tags_as_columns(runs: Runs, tmp_path: Path) -> None:
    run_id = record(runs, 3)
    (row,) = read(runs, tmp_path / "cache").to_dicts()
    assert row["run_id"] == run_id
    said = [
        row[name] for name in ("dataset", "experiment", "trial", "status", "seconds", "checkpoint_id", "folder_url")
    ]
    assert said == ["elpv", "binary", "probe__s3", "FINISHED", 2.5, f"{3:016x}", "/outputs/3"]
    assert row["params"] == {"metric": "top1", "nothing": "None", "train.epochs": "3"}
    assert row["metrics"]["epoch_loss"] == 1.0


def test_pages__plain_sql_and_the_client_of_mlflow_say_the_same(
    runs: Runs, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several pages; a deleted run and a deleted experiment are in neither."""
    monkeypatch.setattr(run_table, "_PAGE", 2)
    ids = [record(runs, seed) for seed in range(5)]
    record(runs, 0, experiment="no_slash")
    gone = record(runs, 0, experiment="gone/soon")
    client = load_mlflow().MlflowClient(runs.tracking_uri)
    client.delete_run(ids[1])
    client.delete_experiment(client.get_run(gone).info.experiment_id)
    running = client.create_run("0", run_name="by hand")
    plain = sorted(run for page in run_table._pages_of_sqlite(database) for run in page)
    served = sorted(run for page in run_table._pages_of_server(runs.tracking_uri) for run in page)
    assert {run.run_id for run in plain} == {*ids, running.info.run_id} - {ids[1]} | {plain_id(plain, "no_slash")}
    for mine, theirs in zip(plain, served, strict=True):
        assert mine.metrics.keys() == theirs.metrics.keys()
        for key, value in mine.metrics.items():
            assert value == pytest.approx(theirs.metrics[key], nan_ok=True, abs=0)
        assert mine._replace(metrics={}) == theirs._replace(metrics={})


def plain_id(runs: list[run_table.LoggedRun], experiment: str) -> str:
    return next(run.run_id for run in runs if run.experiment == experiment)


def test_refreshed__is_made_anew_only_after_a_change(runs: Runs, tmp_path: Path) -> None:
    record(runs, 0)
    table = RunTable(runs.tracking_uri, tmp_path / "cache")
    first = table.refreshed().stat().st_ino
    assert table.refreshed().stat().st_ino == first
    record(runs, 1)
    assert table.refreshed().stat().st_ino != first
    assert pl.read_parquet(table.path).height == 2


def test_refreshed__another_server_is_not_taken_for_this_one(runs: Runs, tmp_path: Path) -> None:
    record(runs, 0)
    assert read(runs, tmp_path / "cache").height == 1
    other = RunTable(f"sqlite:///{tmp_path / 'not there.db'}", tmp_path / "cache")
    assert pl.read_parquet(other.refreshed()).height == 0
    assert not (tmp_path / "not there.db").exists()


def test_folder_url__of_a_run_or_none(runs: Runs, tmp_path: Path) -> None:
    table = RunTable(runs.tracking_uri, tmp_path / "cache")
    assert table.folder_url(record(runs, 7)) == "/outputs/7"
    assert table.folder_url("0" * 32) is None


@pytest.fixture
def address(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow's own web application over the database, in a thread: `mlflow server` starts four processes around it."""
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", f"sqlite:///{database}")
    from mlflow.server import app

    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(WSGIRequestHandler):
    def log_message(self, *said: object) -> None:
        """Nothing."""


def test_refreshed__a_server_behind_http_says_what_its_database_says(runs: Runs, address: str, tmp_path: Path) -> None:
    for seed in range(3):
        record(runs, seed)
    served = RunTable(address, tmp_path / "served")
    assert_frame_equal(pl.read_parquet(served.refreshed()).sort("run_id"), read(runs, tmp_path / "cache"))
    record(runs, 3)
    assert pl.read_parquet(served.refreshed()).height == 4
