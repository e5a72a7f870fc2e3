"""Trials in MLflow, found by their tags and never by an active run. No metric arithmetic here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from platform_assets.stores.manifests import later_name
from platform_assets.stores.registry import Registry

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

_PARENT = "mlflow.parentRunId"  # MLflow's own tag, by which its UI nests runs
SMALL_FILE_BYTES = 1024 * 1024
_METRICS_PER_BATCH = 1000
_PARAMS_PER_BATCH = 100

# Identities are compared in MLflow's filter language, which cannot escape a quote.
Identity = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^'\"`\\\r\n]+$")]


class RunConflict(ValueError):
    """What MLflow already holds contradicts what is to be recorded."""


class EpochMetrics(BaseModel):
    """The metrics after one epoch (from 0)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    metrics: dict[str, float]


class TrialRun(BaseModel):
    """What is recorded of one trial, or of a search and each of its trials, which leave no checkpoint behind.

    `history` and `metrics` share no metric name. The UI shows a run under that of `parent_run_id`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: Identity
    asset: Identity
    partition: Identity
    config_hash: Identity
    data_version: Identity
    dagster_run_id: str
    status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
    started_ms: int
    ended_ms: int
    leaves_checkpoint: bool = True
    checkpoint_id: Identity | None = None
    folder_url: str | None = None
    parent_run_id: str | None = None
    params: dict[str, str | int | float | bool | None] = {}
    history: tuple[EpochMetrics, ...] = ()
    metrics: dict[str, float] = {}
    files: dict[str, bytes] = {}
    """Small files to show beside the run, by name; weights and tables stay in the outputs folder."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        twice = self.metrics.keys() & {name for epoch in self.history for name in epoch.metrics}
        if twice:
            raise ValueError(f"metrics {sorted(twice)} are in history too; name the final ones otherwise")
        if self.leaves_checkpoint and self.status == "FINISHED" and not (self.checkpoint_id and self.folder_url):
            raise ValueError(f"{self.asset} {self.partition}: FINISHED needs checkpoint_id and folder_url")
        for name, content in self.files.items():
            if len(content) > SMALL_FILE_BYTES:
                raise ValueError(f"{name}: {len(content)} bytes, over {SMALL_FILE_BYTES}; add it to the outputs folder")
            later_name(name)
        return self

    @property
    def identity(self) -> dict[str, str]:
        return {
            "asset": self.asset,
            "partition": self.partition,
            "config_hash": self.config_hash,
            "data_version": self.data_version,
        }

    @property
    def tags(self) -> dict[str, str]:
        found = {
            "dagster_run_id": self.dagster_run_id,
            "checkpoint_id": self.checkpoint_id,
            "folder_url": self.folder_url,
            _PARENT: self.parent_run_id,
        }
        return {**self.identity, **{name: value for name, value in found.items() if value is not None}}


class Runs(Registry):
    """One MLflow tracking server or SQLite file: trials, and the models registered of them."""

    def record_trial(self, trial: TrialRun) -> str:
        """Records a trial and returns its MLflow run id; recording the same trial again changes nothing.

        A run of the same asset, partition, config and data is continued unless it ended with another checkpoint.
        Raises RunConflict when it holds other params.
        """
        experiment_id = self._experiment_id(trial.experiment)
        with self._locked("|".join(trial.identity.values())):
            run = self._find(experiment_id, trial) or self._client.create_run(
                experiment_id, start_time=trial.started_ms, tags=trial.identity, run_name=trial.partition
            )
            run_id: str = run.info.run_id
            self._log_params(run, trial)
            self._log_metrics(run_id, trial)
            self._log_files(run_id, trial)
            for name, value in trial.tags.items():
                self._client.set_tag(run_id, name, value)
            if trial.status == "RUNNING":
                self._client.update_run(run_id, status=trial.status)
            else:
                self._client.set_terminated(run_id, trial.status, trial.ended_ms)
        return run_id

    def run_url(self, run_id: str) -> str:
        """Where the run stands in the MLflow UI."""
        experiment_id = self._client.get_run(run_id).info.experiment_id
        return f"{self.ui_url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    def _find(self, experiment_id: str, trial: TrialRun) -> Run | None:
        condition = " and ".join(f"tags.{name} = '{value}'" for name, value in trial.identity.items())
        runs = self._client.search_runs([experiment_id], condition, order_by=["attributes.start_time DESC"])
        by_checkpoint = {run.data.tags.get("checkpoint_id"): run for run in reversed(runs)}
        return by_checkpoint.get(trial.checkpoint_id) or by_checkpoint.get(None)

    def _experiment_id(self, name: str) -> str:
        with self._locked(f"experiment {name}"):
            found = self._client.get_experiment_by_name(name)
            if found is None:
                location = f"{self.artifact_root.rstrip('/')}/{name}" if self.artifact_root else None
                return str(self._client.create_experiment(name, artifact_location=location))
            if found.lifecycle_stage == "deleted":
                self._client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)

    def _log_params(self, run: Run, trial: TrialRun) -> None:
        from mlflow.entities import Param

        params = {name: str(value) for name, value in trial.params.items()}
        known: dict[str, str] = run.data.params
        for name in params.keys() & known.keys():
            if params[name] != known[name]:
                change = f"param {name} is {known[name]!r}, now {params[name]!r} under the same config hash"
                raise RunConflict(
                    f"MLflow run {run.info.run_id}: {change} {trial.config_hash}; delete that run or configure it"
                )
        fresh = [Param(name, value) for name, value in params.items() if name not in known]
        for start in range(0, len(fresh), _PARAMS_PER_BATCH):
            self._client.log_batch(run.info.run_id, params=fresh[start : start + _PARAMS_PER_BATCH])

    def _log_metrics(self, run_id: str, trial: TrialRun) -> None:
        points = _points(trial)
        known = {
            (point.key, point.step, str(point.value))
            for key in {point.key for point in points}
            for point in self._client.get_metric_history(run_id, key)
        }
        fresh = [point for point in points if (point.key, point.step, str(point.value)) not in known]
        for start in range(0, len(fresh), _METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=fresh[start : start + _METRICS_PER_BATCH])

    def _log_files(self, run_id: str, trial: TrialRun) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in trial.files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(run_id, folder)


def _points(trial: TrialRun) -> list[Metric]:
    from mlflow.entities import Metric

    final = [Metric(name, value, trial.started_ms, 0) for name, value in trial.metrics.items()]
    epochs = [(epoch.epoch, name, value) for epoch in trial.history for name, value in epoch.metrics.items()]
    return [*final, *(Metric(name, value, trial.started_ms, epoch) for epoch, name, value in epochs)]
