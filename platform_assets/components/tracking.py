"""A trial as its MLflow run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.desk import CheckpointRow, Desk
    from platform_assets.vision.recipes.resolving import ResolvedTrial


def begin(desk: Desk, trial: ResolvedTrial) -> None:
    """Shows a trial as running from its first epoch on; the run of a killed process stays so until it is resumed."""
    _record_unfinished(desk, trial, "RUNNING")


def ended_as_it_ends(desk: Desk, trial: ResolvedTrial) -> ExitStack:
    """A context: a trial that fails in it, or is stopped, is so in MLflow too."""

    def end(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            stopped = isinstance(error, dg.DagsterExecutionInterruptedError)
            _record_unfinished(desk, trial, "KILLED" if stopped else "FAILED")

    context = ExitStack()
    context.push(end)
    return context


def _record_unfinished(desk: Desk, trial: ResolvedTrial, status: Literal["RUNNING", "FAILED", "KILLED"]) -> None:
    from platform_assets.stores.runs import TrialRun

    now = int(time.time() * 1000)
    desk.runs.record_trial(
        TrialRun(
            **_named(desk, trial),
            status=status,
            started_ms=now,
            ended_ms=now,
            params=_flat(json.loads(trial.canonical_json())),
        )
    )


def record(desk: Desk, trial: ResolvedTrial, row: CheckpointRow, table: pl.DataFrame, files: dict[str, bytes]) -> str:
    """Get or create the run of this trial, config and data, and log what is known of it; returns its MLflow run id."""
    import polars as pl

    from platform_assets.stores.runs import EpochMetrics, TrialRun

    folder = desk.outputs.at(row.folder_url)
    history = pl.read_parquet(folder.path("history.parquet")).select(pl.selectors.numeric())
    scores = table.select(pl.selectors.float()).row(0, named=True)
    names = ("config.json", "env.json", "labelmap.json")
    return desk.runs.record_trial(
        TrialRun(
            **_named(desk, trial),
            status="FINISHED",
            started_ms=row.started_ms,
            ended_ms=row.ended_ms,
            checkpoint_id=row.checkpoint_id,
            folder_url=row.folder_url,
            params=_flat(json.loads(trial.canonical_json())),
            history=tuple(
                EpochMetrics(
                    epoch=number, metrics={f"epoch_{name}": float(v) for name, v in epoch.items() if v is not None}
                )
                for number, epoch in enumerate(history.to_dicts())
            ),
            metrics={name: value for name, value in scores.items() if value is not None},
            files=small_files(
                {**files, **{name: folder.path(name).read_bytes() for name in names}}, desk.context.log.info
            ),
        )
    )


def small_files(files: Mapping[str, bytes], say: Callable[[str], None]) -> dict[str, bytes]:
    """Those that MLflow shows beside a run. The confusion matrix of a thousand classes makes metrics.json too large."""
    from platform_assets.stores.runs import SMALL_FILE_BYTES

    large = {name: len(content) for name, content in files.items() if len(content) > SMALL_FILE_BYTES}
    for name, size_bytes in large.items():
        say(f"{name} has {size_bytes / 1e6:.1f} MB and is not shown in MLflow; it lies in the trial's folder")
    return {name: content for name, content in files.items() if name not in large}


def _named(desk: Desk, trial: ResolvedTrial) -> dict[str, Any]:
    """What finds the MLflow run of a trial again."""
    return {
        "experiment": "/".join(desk.spec.key),
        "asset": "/".join(desk.key("checkpoint")),
        "partition": trial.trial,
        "config_hash": trial.config_hash,
        "data_version": desk.inputs.records_version,
        "dagster_run_id": desk.context.run.run_id,
    }


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        if name == "members":  # whole configs, too long for a param; each is a run of its own
            found[name] = ", ".join(f"{member['trial']['variant']} {member['checkpoint_id']}" for member in value)
        elif isinstance(value, dict):
            found.update(_flat(value, f"{prefix}{name}."))
        else:
            found[f"{prefix}{name}"] = (
                value if isinstance(value, str | int | float | bool | None) else json.dumps(value)
            )
    return found
