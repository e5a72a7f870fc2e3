"""The linear probe: multinomial logistic regression on frozen features, its regularization chosen on the val part."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.evaluation.scores import cross_entropy, score
from platform_assets.vision.heads.feature_scaling import (
    WHOLE,
    Head,
    LabelledFeatures,
    Scaler,
    Slices,
    rank,
    require_usable,
)
from platform_assets.vision.recipes.probe_options import FeatureChoice, ProbeRecipe
from platform_assets.vision.recipes.resolving import MetricName

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


class SolverReport(NamedTuple):
    """How one fit ended."""

    iterations: int
    converged: bool
    seconds: float


class Candidate(BaseModel):
    """One part of the features at one value of C: its scores on train and val, and whether the solver got there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: FeatureChoice
    log10_c: float
    train_metric: float
    val_metric: float
    val_loss: float
    iterations: int
    converged: bool
    seconds: float


@dataclass(frozen=True)
class FittedProbe:
    """A head for raw features: logits_bk = features_bd @ weight_kd.T + bias_k, the standardisation folded in.

    Weights of features outside of `columns` are zero. With `unit` features_bd[:, columns] are first brought to unit
    length. `candidates` has one row per part of the features and value of C, with `chosen` marking the one taken.
    """

    weight_kd: NDArray[np.float32]
    bias_k: NDArray[np.float32]
    columns: slice
    unit: bool
    log10_c: float
    at_grid_edge: bool
    candidates: pl.DataFrame


class _Fit(NamedTuple):
    candidate: Candidate
    head: Head
    unit: bool


def fit_probe(
    train_xy: LabelledFeatures,
    val_xy: LabelledFeatures,
    *,
    num_classes: int,
    recipe: ProbeRecipe,
    metric: MetricName,
    slices: Slices = WHOLE,
) -> FittedProbe:
    """Fit on train for every slice and every C of the recipe, take the best on val by the recipe's `select_by`.

    Of equals the earlier slice, then the smaller C. A class without train images keeps its logit, log(n_train + 1)
    below the mean of the others: never predicted, and its loss stays finite. Raises ProbeError on unusable input.
    """
    require_usable(train_xy, val_xy, num_classes)
    candidates: list[Candidate] = []
    chosen: _Fit | None = None
    for choice, columns in slices.items():
        parts = [(features_nd[:, columns], labels_n) for features_nd, labels_n in (train_xy, val_xy)]
        for fit in _fit_slice(choice, parts[0], parts[1], num_classes, recipe, metric):
            candidates.append(fit.candidate)
            # The first of equals stays, and the grid ascends in C.
            if chosen is None or _rank(fit.candidate, recipe) > _rank(chosen.candidate, recipe):
                chosen = fit
    assert chosen is not None, "a recipe has a slice and a value of C"
    columns, log10_c = slices[chosen.candidate.features], chosen.candidate.log10_c
    weight_kd = np.zeros((num_classes, train_xy[0].shape[1]), np.float32)
    weight_kd[:, columns] = chosen.head.weight_kd
    return FittedProbe(
        weight_kd=weight_kd,
        bias_k=chosen.head.bias_k.astype(np.float32),
        columns=columns,
        unit=chosen.unit,
        log10_c=log10_c,
        at_grid_edge=log10_c in (recipe.log10_c_grid[0], recipe.log10_c_grid[-1]),
        candidates=pl.DataFrame([{**tried.model_dump(), "chosen": tried is chosen.candidate} for tried in candidates]),
    )


def _rank(candidate: Candidate, recipe: ProbeRecipe) -> tuple[float, float]:
    return rank(candidate.val_loss, candidate.val_metric, recipe.select_by)


def _fit_slice(
    choice: FeatureChoice,
    train_xy: LabelledFeatures,
    val_xy: LabelledFeatures,
    num_classes: int,
    recipe: ProbeRecipe,
    metric: MetricName,
) -> Iterator[_Fit]:
    """Heads along the grid, each solve starting from the one before it."""
    from sklearn.linear_model import LogisticRegression

    scaler = Scaler.of(train_xy[0], recipe.scaling)
    scaled_nd, inputs = scaler.scaled(train_xy[0]), [scaler.inputs(part[0]) for part in (train_xy, val_xy)]
    solver = LogisticRegression(max_iter=recipe.max_iterations, tol=recipe.tolerance, warm_start=True)
    for log10_c in recipe.log10_c_grid:
        report = _solve(solver.set_params(C=10.0**log10_c), scaled_nd, train_xy[1])
        head = scaler.folded(_all_classes(solver, num_classes, len(train_xy[1])))
        train_nk, val_nk = (head.logits(features_nd) for features_nd in inputs)
        candidate = Candidate(
            features=choice,
            log10_c=log10_c,
            train_metric=score(train_nk, train_xy[1], metric),
            val_metric=score(val_nk, val_xy[1], metric),
            val_loss=cross_entropy(val_nk, val_xy[1]),
            **report._asdict(),
        )
        yield _Fit(candidate, head, scaler.unit)


def _solve(solver: LogisticRegression, features_nd: NDArray[np.float32], labels_n: NDArray[np.int64]) -> SolverReport:
    from sklearn.exceptions import ConvergenceWarning

    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        solver.fit(features_nd, labels_n)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return SolverReport(int(solver.n_iter_.max()), converged, time.perf_counter() - started)


def _all_classes(solver: LogisticRegression, num_classes: int, train_images: int) -> Head:
    """The solver's rows at their class indices."""
    weight_kd, bias_k = solver.coef_.astype(np.float64), solver.intercept_.astype(np.float64)
    if len(weight_kd) == 1:
        # Two classes: scikit-learn keeps the difference of the two logits only.
        weight_kd, bias_k = np.concatenate([-weight_kd, weight_kd]) / 2, np.concatenate([-bias_k, bias_k]) / 2
    return Head(weight_kd, bias_k).of_all_classes(solver.classes_, num_classes, train_images)
