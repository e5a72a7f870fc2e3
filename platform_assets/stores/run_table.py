"""All runs of an MLflow tracking server as one Parquet file, made anew when the server has changed; nothing is written there."""

from __future__ import annotations

import math
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from platform_assets.stores.mlflow_database import load_mlflow

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow.entities import Run

TAGS = ("asset", "config_hash", "checkpoint_id", "data_version", "dagster_run_id", "folder_url")
"""Tags of a trial's run that are columns of their own; `partition` is its column `trial`."""

_PAGE = 1000
_STATE = b"kestrel.state"
_HEADER_BYTES = 100  # of a SQLite file: its change counter counts transactions


class LoggedRun(NamedTuple):
    """One run that is not deleted; `metrics` are the last values."""

    run_id: str
    experiment: str
    name: str | None
    status: str
    started_ms: int | None
    ended_ms: int | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class RunTable:
    """The file `runs.parquet` under `cache`. A server behind http is read anew each time, a SQLite file when it changed."""

    def __init__(self, tracking_uri: str, cache: Path) -> None:
        self.tracking_uri = tracking_uri
        self.path = cache.absolute() / "runs.parquet"

    def refreshed(self) -> Path:
        """The file, of the runs as they are now."""
        import pyarrow.parquet as pq

        state = self._state()
        known = pq.read_schema(self.path).metadata if self.path.is_file() else {}
        if state is None or known.get(_STATE) != state:
            self._write(state or b"unknown")
        return self.path

    def folder_url(self, run_id: str) -> str | None:
        """Where the files of a trial's run lie; None of a run that is not there, or left none."""
        import polars as pl

        found = pl.read_parquet(self.refreshed(), columns=["run_id", "folder_url"]).filter(run_id=run_id)
        return found["folder_url"][0] if found.height else None

    def _write(self, state: bytes) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = _schema().with_metadata({_STATE: state})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path.parent, prefix=".writing-") as folder:
            whole = Path(folder, "runs")
            with pq.ParquetWriter(whole, schema, compression="zstd") as writer:
                for page in self._pages():
                    writer.write_table(pa.Table.from_pylist([_row(run) for run in page], schema=schema))
            whole.replace(self.path)

    def _pages(self) -> Iterator[list[LoggedRun]]:
        database = self._database
        if database is None:
            return _pages_of_server(self.tracking_uri)
        return _pages_of_sqlite(database) if database.is_file() else iter(())

    def _state(self) -> bytes | None:
        """What changes with every transaction of the database; None where there is no telling."""
        if self._database is None:
            return None
        facts = [self.tracking_uri]
        for path in (self._database, self._database.with_name(f"{self._database.name}-wal")):
            if path.is_file():
                with path.open("rb") as file:
                    header = file.read(_HEADER_BYTES).hex()
                facts.append(f"{path.stat().st_size} {path.stat().st_mtime_ns} {header}")
        return "\n".join(facts).encode()

    @property
    def _database(self) -> Path | None:
        path = self.tracking_uri.removeprefix("sqlite:///")
        return None if path == self.tracking_uri else Path(path).absolute()


def _pages_of_sqlite(database: Path) -> Iterator[list[LoggedRun]]:
    """By plain SQL: ten thousand runs take seconds, MlflowClient minutes (docs/benchmarks.md)."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        runs = connection.execute(
            "SELECT run_uuid, e.name, r.name, status, start_time, end_time FROM runs r JOIN experiments e "
            "USING (experiment_id) WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active' ORDER BY run_uuid"
        ).fetchall()
        for start in range(0, len(runs), _PAGE):
            page = runs[start : start + _PAGE]
            ids = [run[0] for run in page]
            params = _values(connection, "SELECT run_uuid, key, value FROM params", ids)
            metrics = _values(connection, "SELECT run_uuid, key, iif(is_nan, NULL, value) FROM latest_metrics", ids)
            metrics = {run: {k: math.nan if v is None else v for k, v in of.items()} for run, of in metrics.items()}
            tags = _values(connection, "SELECT run_uuid, key, value FROM tags", ids)
            yield [LoggedRun(*run, *(found[run[0]] for found in (params, metrics, tags))) for run in page]


def _values(connection: sqlite3.Connection, select: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {run_id: {} for run_id in ids}
    marks = ",".join("?" * len(ids))
    for run_id, key, value in connection.execute(f"{select} WHERE run_uuid IN ({marks})", ids):
        found[run_id][key] = value
    return found


def _pages_of_server(tracking_uri: str) -> Iterator[list[LoggedRun]]:
    client = load_mlflow().MlflowClient(tracking_uri)
    experiments = _every_page(partial(client.search_experiments, max_results=_PAGE))
    names = {found.experiment_id: found.name for page in experiments for found in page}
    for page in _every_page(partial(client.search_runs, list(names), max_results=_PAGE)):
        yield [_logged(run, names[run.info.experiment_id]) for run in page]


def _every_page(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield page
        token = page.token
        if not token:
            return


def _logged(run: Run, experiment: str) -> LoggedRun:
    about, data = run.info, run.data
    moments = (about.start_time, about.end_time)
    return LoggedRun(
        about.run_id, experiment, about.run_name, about.status, *moments, data.params, data.metrics, data.tags
    )


def _row(run: LoggedRun) -> dict[str, Any]:
    dataset, slash, experiment = run.experiment.partition("/")
    return {
        "dataset": dataset if slash else None,
        "experiment": experiment if slash else run.experiment,
        "trial": run.tags.get("partition"),
        "run_id": run.run_id,
        "name": run.name,
        "status": run.status,
        "started": run.started_ms,
        "ended": run.ended_ms,
        "seconds": _seconds(run.started_ms, run.ended_ms),
        **{name: run.tags.get(name) for name in TAGS},
        "params": sorted(run.params.items()),
        "metrics": sorted(run.metrics.items()),
        "tags": sorted(run.tags.items()),
    }


def _seconds(started_ms: int | None, ended_ms: int | None) -> float | None:
    return None if started_ms is None or ended_ms is None else (ended_ms - started_ms) / 1000


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, moment = pa.string(), pa.timestamp("ms")
    return pa.schema(
        {
            **dict.fromkeys(("dataset", "experiment", "trial", "run_id", "name", "status"), text),
            **{"started": moment, "ended": moment, "seconds": pa.float64()},
            **dict.fromkeys(TAGS, text),
            "params": pa.map_(text, text),
            "metrics": pa.map_(text, pa.float64()),
            "tags": pa.map_(text, text),
        }
    )
