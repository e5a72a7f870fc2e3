"""The body of a tuning asset: a search over the options of one variant, judged on val."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.checkpoint_steps import fitted_trial, input_version
from platform_assets.components.desk import Desk
from platform_assets.components.specs import data_version
from platform_assets.vision.recipes.resolving import ResolvedTrial
from platform_assets.vision.recipes.train_options import DoesNotTrain
from platform_assets.vision.recipes.tuning_options import Tune, best_table
from platform_assets.vision.recipes.variants import Variant

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.vision.trials.fitting import Fitted
    from platform_assets.vision.trials.tuning import Report, Tuning, TuningTrial

TUNING = (
    "One row a trial of a search over the options of one variant: state, value on val, seconds, epochs, parameters. Test "
    "images are not read. A search that was stopped goes on, one that is done is found on disk."
)
CODE = ("vision.trials.tuning", "vision.trials.network_fitting")
_ENDED_AS: dict[str, Literal["FINISHED", "FAILED", "KILLED"]] = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "failed": "FAILED",
    "refused": "FAILED",
    "interrupted": "KILLED",
}


@dataclass(frozen=True)
class _Search:
    """One search on the desk: what it starts from, and the images that it may see."""

    desk: Desk
    name: str
    options: Tune
    variant: Variant
    records: pl.DataFrame

    @property
    def key(self) -> list[str]:
        return self.desk.key(f"tuning_{self.name}")

    def trial(self, variant: Variant) -> ResolvedTrial:
        return self.desk.inputs.resolve(variant, self.options.variant, self.options.seed)

    @property
    def config_hash(self) -> str:
        """Of the search and of what its experiment fixes."""
        text = f"{self.options.fingerprint(self.variant)}\n{self.trial(self.variant).config_hash}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        return self.desk.outputs.working("/".join(self.key), "search", self.config_hash, input_version(self.desk))


def tuning(desk: Desk, name: str, options: Tune) -> dg.MaterializeResult[Any]:
    """Search until the budget is spent, trials of earlier runs included; write the trials and the best parameters."""
    from platform_assets.vision.trials.tuning import tune

    search = _search(desk, name, options)
    with show.stops_cleanly("Finished trials are kept."):
        parent = _Runs(search)
        with parent:
            found = tune(
                options,
                search.variant,
                lambda variant, report: _value(search, variant, report),
                storage=search.folder,
                on_trial=_told(search, parent.record_child),
            )
        parent.finish(found)
    desk.tables.write(search.key, found.table)
    desk.tables.write(_best_key(search.key), best_table(found.best.parameters))
    return dg.MaterializeResult(
        asset_key=search.key,
        data_version=data_version(
            search.config_hash, input_version(desk), best_table(found.best.parameters).write_json()
        ),
        metadata=_metadata(search, found, parent.url),
    )


def _best_key(tuning_key: list[str]) -> list[str]:
    return [*tuning_key, "best"]


def _search(desk: Desk, name: str, options: Tune) -> _Search:
    import polars as pl

    variant = desk.spec.variants[options.variant]
    trial = desk.inputs.resolve(variant, options.variant, options.seed)
    records = desk.inputs.records_of(trial).filter(pl.col("split") != "test")
    return _Search(desk, name, options, variant, records)


def _value(search: _Search, variant: Variant, report: Report) -> float:
    """The experiment's metric on val of one fitted trial. What its options alone are to blame for fails it."""
    from platform_assets.vision.trials.tuning import TrialFailed

    try:
        return _fitted_value(search, search.trial(variant), report)
    except DoesNotTrain as error:
        raise TrialFailed(f"{type(error).__name__}: {error}") from error


def _fitted_value(search: _Search, trial: ResolvedTrial, report: Report) -> float:
    from platform_assets.vision.trials.tuning import Pruned

    work = search.folder / "_trials" / trial.config_hash
    try:
        fitted = fitted_trial(search.desk, trial, search.records, work, lambda row: report(row.epoch, row.val_metric))
        value = _val_metric(fitted)
    except (Pruned, DoesNotTrain):
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)  # a probe has none; what ends otherwise goes on from there
    return value


def _val_metric(fitted: Fitted) -> float:
    """Of the epoch or candidate whose weights the classifier has."""
    import polars as pl

    if "best_epoch" in fitted.summary:
        return float(fitted.history.filter(pl.col("epoch") == fitted.summary["best_epoch"])["val_metric"].item())
    return float(fitted.history.filter("chosen")["val_metric"].item())


def _told(search: _Search, record: Callable[[TuningTrial], None]) -> Callable[[TuningTrial], None]:
    """Each trial at once in the log and as a child run."""
    budget = f" of {search.options.trials}" if search.options.trials else ""

    def tell(trial: TuningTrial) -> None:
        value = "" if trial.value is None else f", val {search.desk.spec.metric} {trial.value:.4f}"
        chosen = ", ".join(f"{path} {_shown(value)}" for path, value in trial.parameters.items())
        why = f" ({trial.reason})" if trial.reason else ""
        search.desk.context.log.info(
            f"{search.name}: trial {trial.number}{budget} {trial.state}{value}, {trial.seconds:.1f} s: {chosen}{why}"
        )
        record(trial)

    return tell


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Runs:
    """The MLflow run of a search and those of its trials under it. As a context, it ends as the search ends."""

    def __init__(self, search: _Search) -> None:
        self.search = search
        self.started_ms = int(time.time() * 1000)
        self.run_id = self._record("RUNNING")

    @property
    def url(self) -> str:
        return self.search.desk.runs.run_url(self.run_id)

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._record("KILLED" if isinstance(error, dg.DagsterExecutionInterruptedError) else "FAILED")

    def finish(self, found: Tuning) -> None:
        trials = {"tuning_trials": float(len(found.trials)), "tuning_seconds": sum(t.seconds for t in found.trials)}
        assert found.best.value is not None
        self._record("FINISHED", {**trials, f"best_val_{self.search.desk.spec.metric}": found.best.value})

    def _record(
        self, status: Literal["RUNNING", "FINISHED", "FAILED", "KILLED"], metrics: dict[str, float] | None = None
    ) -> str:
        from platform_assets.stores.runs import TrialRun

        options = self.search.options
        space = {f"space.{path}": axis.model_dump_json(exclude_none=True) for path, axis in options.space.items()}
        chosen = options.model_dump(include={"variant", "sampler", "pruner", "seed"})
        return self.search.desk.runs.record_trial(
            TrialRun(
                **self._named(self.search.config_hash),
                partition=f"tuning_{self.search.name}",
                status=status,
                started_ms=self.started_ms,
                ended_ms=int(time.time() * 1000),
                params={**chosen, **space},
                metrics=metrics or {},
            )
        )

    def record_child(self, trial: TuningTrial) -> None:
        from platform_assets.stores.runs import EpochMetrics, TrialRun

        metric, now = self.search.desk.spec.metric, int(time.time() * 1000)
        self.search.desk.runs.record_trial(
            TrialRun(
                **self._named(self.search.config_hash),
                partition=f"tuning_{self.search.name}__{trial.number}",
                status=_ENDED_AS[trial.state],
                started_ms=now - int(trial.seconds * 1000),
                ended_ms=now,
                parent_run_id=self.run_id,
                params={**trial.parameters, "state": trial.state, "reason": trial.reason},
                history=tuple(
                    EpochMetrics(epoch=epoch, metrics={f"epoch_val_{metric}": value})
                    for epoch, value in trial.epoch_values.items()
                ),
                metrics={} if trial.value is None else {f"val_{metric}": trial.value},
            )
        )

    def _named(self, config_hash: str) -> dict[str, Any]:
        desk = self.search.desk
        return {
            "experiment": "/".join(desk.spec.key),
            "asset": "/".join(self.search.key),
            "config_hash": config_hash,
            "data_version": desk.inputs.records_version,
            "dagster_run_id": desk.context.run.run_id,
            "leaves_checkpoint": False,
        }


def _metadata(search: _Search, found: Tuning, mlflow_url: str) -> dict[str, Any]:
    from platform_assets.vision.views import tuning_plots

    metric, shares = search.desk.spec.metric, found.importances
    return {
        "dagster/row_count": len(found.trials),
        f"best_val_{metric}": found.best.value,
        "best_trial": found.best.number,
        "best": show.table(best_table(found.best.parameters)),
        "history": show.picture(tuning_plots.tuning_history(found.table, metric=metric)),
        **({"importances": show.picture(tuning_plots.importance_bars(shares))} if shares else {}),
        "trials": show.table(found.table),
        "mlflow_run": dg.MetadataValue.url(mlflow_url),
    }
