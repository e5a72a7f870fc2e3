"""The search itself: the next options asked for, tried and told, one trial after another, until the budget is spent."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from platform_assets.vision.recipes.tuning_options import Parameters, Tune, Value, first_message, with_best
from platform_assets.vision.recipes.variants import Variant
from platform_assets.vision.trials.tuning_study import alone, distributions, make_sampler, open_study, require_optuna

if TYPE_CHECKING:
    import optuna
    import polars as pl

State = Literal["complete", "pruned", "failed", "refused", "interrupted"]
Report = Callable[[int, float], None]
Objective = Callable[[Variant, Report], float]

# 2026-11, ten searches of 20 over four options, one of which matters: fANOVA named it first in 10, PED-ANOVA (0.1) in 7.
_IMPORTANCES_NEED = 10


class NothingCompleted(ValueError):
    """A search whose budget is spent and which has no completed trial to choose."""


class TuningStopped(RuntimeError):
    """The search was asked to stop; the trials done are kept and the next call goes on from there."""


class TrialFailed(ValueError):
    """Raised by an objective: these options come to nothing, such as a loss that is not finite. The search goes on."""


class Pruned(Exception):
    """Raised by `report` in the objective, which lets it pass: the rest of this trial is not worth its time."""


class TuningTrial(BaseModel):
    """One trial. `value` is the objective, of a pruned one that of its last epoch; `reason` says why there is none.

    refused: a combination that the recipe does not allow. interrupted: its process ended; its parameters are tried again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    state: State
    value: float | None
    seconds: float
    epoch_values: dict[int, float]
    parameters: dict[str, Value]
    reason: str | None


@dataclass(frozen=True)
class Tuning:
    """A finished search. `best` is the completed trial of the highest value, of equals the first.

    `importances` add up to 1, the largest first (fANOVA, Hutter et al. 2014); there are none below ten completed trials
    and where all of them have one value.
    """

    trials: tuple[TuningTrial, ...]
    best: TuningTrial
    importances: dict[str, float]

    @property
    def table(self) -> pl.DataFrame:
        """One row a trial: number, state, value, seconds, epochs, a column for each parameter, reason."""
        return trials_table(self.trials, list(self.best.parameters))


def tune(
    options: Tune,
    variant: Variant,
    objective: Objective,
    *,
    storage: Path,
    on_trial: Callable[[TuningTrial], None] | None = None,
    stop_requested: Callable[[], bool] | None = None,
) -> Tuning:
    """Search until the budget is spent, trials of earlier calls on the folder `storage` included.

    `objective(variant, report)` returns the value to raise and may call `report(epoch, value)` after each epoch, from 1.
    Whatever ends the process, finished trials are kept; the parameters of the one that ran are tried again first. Which
    trials follow depends on the space, the seed and the values alone: a search that went on proposes what an undisturbed
    one does (but for `hyperband`, whose brackets go by the trial's number). Another search in the same folder is passed
    over. `on_trial` hears of each trial once it has ended, of an interrupted one in the next call.

    Raises TuningUnavailable, TuningBusy, NothingCompleted, and TuningStopped at the next epoch or trial after
    `stop_requested` says so.
    """
    require_optuna()
    options.require_fits(variant)
    storage.mkdir(parents=True, exist_ok=True)
    with alone(storage):
        study = open_study(options, variant, storage)
        _take_up_interrupted(study)
        _tell(study, on_trial)
        while not _spent(study, options):
            if stop_requested is not None and stop_requested():
                raise TuningStopped(f"stopped on request after {_counted(study)} trials, which are kept")
            _run_trial(study, options, variant, objective, stop_requested)
            _tell(study, on_trial)
    return _result(study, options)


def trials_table(trials: Sequence[TuningTrial], parameters: Sequence[str]) -> pl.DataFrame:
    import polars as pl

    frame = pl.DataFrame(
        {
            "number": [trial.number for trial in trials],
            "state": [trial.state for trial in trials],
            "value": [trial.value for trial in trials],
            "seconds": [trial.seconds for trial in trials],
            "epochs": [max(trial.epoch_values, default=None) for trial in trials],
        },
        schema={"number": pl.Int64, "state": pl.String, "value": pl.Float64, "seconds": pl.Float64, "epochs": pl.Int64},
    )
    columns = [_column(path, [trial.parameters.get(path) for trial in trials]) for path in parameters]
    reasons = pl.Series("reason", [trial.reason for trial in trials], dtype=pl.String)
    return frame.with_columns(*columns, reasons)


def _column(path: str, values: Sequence[Value]) -> pl.Series:
    """Values of several types, such as `none` and 0.5, become their JSON."""
    import polars as pl

    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1:
        values = [json.dumps(value) for value in values]
    return pl.Series(path, values)


def _take_up_interrupted(study: optuna.Study) -> None:
    """Marks what was running as failed and puts its parameters first, once, however often this is done."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    repeated = {trial.user_attrs.get("repeats") for trial in trials}
    for trial in trials:
        if trial.state == TrialState.FAIL and trial.params and trial.number not in repeated:
            study.enqueue_trial(trial.params, user_attrs={"repeats": trial.number})


def _ended(study: optuna.Study) -> list[TuningTrial]:
    from optuna.trial import TrialState

    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [_read(trial) for trial in study.get_trials(deepcopy=False, states=ended)]


def _read(trial: optuna.trial.FrozenTrial) -> TuningTrial:
    from optuna.trial import TrialState

    state: State = "interrupted" if trial.state == TrialState.FAIL else trial.user_attrs["state"]
    return TuningTrial(
        number=trial.number,
        state=state,
        value=trial.value if state in ("complete", "pruned") else None,
        seconds=trial.user_attrs.get("seconds", 0.0),
        epoch_values=trial.intermediate_values,
        parameters=trial.params,
        reason=trial.user_attrs.get("reason"),
    )


def _tell(study: optuna.Study, on_trial: Callable[[TuningTrial], None] | None) -> None:
    """Tells of the trials that were not told of yet, whichever process ran them."""
    ended = _ended(study)
    for trial in ended[study.user_attrs.get("told", 0) :]:
        if on_trial is not None:
            on_trial(trial)
    study.set_user_attr("told", len(ended))


def _counted(study: optuna.Study) -> int:
    return sum(trial.state != "interrupted" for trial in _ended(study))


def _spent(study: optuna.Study, options: Tune) -> bool:
    if options.trials is not None and _counted(study) >= options.trials:
        return True
    seconds = sum(trial.seconds for trial in _ended(study))
    return options.minutes is not None and seconds >= 60 * options.minutes


def _run_trial(
    study: optuna.Study,
    options: Tune,
    variant: Variant,
    objective: Objective,
    stop_requested: Callable[[], bool] | None,
) -> None:
    from optuna.trial import TrialState

    study.sampler = make_sampler(options, _counted(study))
    trial = study.ask(distributions(options))
    started = time.monotonic()

    def report(epoch: int, value: float) -> None:
        trial.set_user_attr("seconds", time.monotonic() - started)
        if stop_requested is not None and stop_requested():
            raise TuningStopped(f"stopped on request in epoch {epoch} of trial {trial.number}; the others are kept")
        trial.report(value, epoch)
        if trial.should_prune():
            raise Pruned(f"pruned after epoch {epoch}")

    # What any other error ends, or the end of the process, stays as running in the journal, for the next call to find.
    state, value, reason = _attempt(trial.params, variant, objective, report)
    trial.set_user_attr("seconds", time.monotonic() - started)
    trial.set_user_attr("state", state)
    trial.set_user_attr("reason", reason)
    # Failed and refused ones are told as pruned: Optuna learns from those that the region is bad, and forgets failed ones.
    study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)


def _attempt(
    parameters: Parameters, variant: Variant, objective: Objective, report: Report
) -> tuple[State, float | None, str | None]:
    try:
        candidate = with_best(variant, parameters)
    except ValidationError as error:
        return "refused", None, first_message(error)
    try:
        value = objective(candidate, report)
    except Pruned as pruned:
        return "pruned", None, str(pruned)
    except TrialFailed as failed:
        return "failed", None, str(failed)
    if not math.isfinite(value):
        return "failed", None, f"the objective is {value}"
    return "complete", value, None


def _result(study: optuna.Study, options: Tune) -> Tuning:
    trials = tuple(_ended(study))
    complete = [trial for trial in trials if trial.state == "complete"]
    if not complete:
        counts = {state: sum(trial.state == state for trial in trials) for state in ("pruned", "failed", "refused")}
        reason = next((trial.reason for trial in trials if trial.reason), "none")
        raise NothingCompleted(
            f"no trial of variant {options.variant!r} was completed ({counts}; the first reason: {reason}); "
            "change the space or raise the budget"
        )
    best = max(complete, key=lambda trial: (trial.value, -trial.number))
    return Tuning(trials, best, _importances(study, complete))


def _importances(study: optuna.Study, complete: Sequence[TuningTrial]) -> dict[str, float]:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    if len(complete) < _IMPORTANCES_NEED or len({trial.value for trial in complete}) == 1:
        return {}
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {path: float(share) for path, share in found.items()}
