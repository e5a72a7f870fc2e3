"""The linear probe: multinomial logistic regression on frozen features, its regularization chosen on the val part."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.recipes import MetricName, ProbeRecipe
from platform_assets.vision.scores import cross_entropy, score

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float64]
LabelledFeatures = tuple[NDArray[np.float32], NDArray[np.int64]]


# Of the median over features. 2026-11, elpv at 224 px, stages, 5 splits, macro-F1: none 0.8434, 0.3 0.8474, 1.0 0.8440.
_STD_FLOOR = 0.3


class ProbeError(ValueError):
    """Features and labels that no probe can be fitted on."""


class Head(NamedTuple):
    """logits_bk = features_bd @ weight_kd.T + bias_k."""

    weight_kd: Floats
    bias_k: Floats

    def logits(self, features_nd: NDArray[np.float32]) -> Floats:
        return np.asarray(features_nd @ self.weight_kd.T + self.bias_k)


class SolverReport(NamedTuple):
    """How one fit ended."""

    iterations: int
    converged: bool
    seconds: float


class Candidate(BaseModel):
    """One value of C: its scores on train and val, and whether the solver got there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    `candidates` has one row per value of C, with `chosen` marking the one taken.
    """

    weight_kd: NDArray[np.float32]
    bias_k: NDArray[np.float32]
    log10_c: float
    at_grid_edge: bool
    candidates: pl.DataFrame


def fit_probe(
    train_xy: LabelledFeatures,
    val_xy: LabelledFeatures,
    *,
    num_classes: int,
    recipe: ProbeRecipe,
    metric: MetricName,
    on_candidate: Callable[[Candidate], None] | None = None,
) -> FittedProbe:
    """Fit on train for every C of the recipe, take the best on val by the recipe's `select_by`, of equals the smaller C.

    A class without train images keeps its logit, log(n_train + 1) below the mean of the others: never predicted, and
    its loss stays finite. Raises ProbeError on unusable features or labels.
    """
    for part, xy in (("train", train_xy), ("val", val_xy)):
        _require_usable(part, xy, num_classes, width=train_xy[0].shape[1])
    heads: list[tuple[Candidate, Head]] = []
    for log10_c, head, fit in _fit_grid(train_xy, num_classes, recipe):
        heads.append((_scored(log10_c, head, fit, train_xy, val_xy, metric), head))
        if on_candidate is not None:
            on_candidate(heads[-1][0])
    # max() keeps the first of equals, and the grid ascends in C.
    chosen, head = max(heads, key=lambda pair: _rank(pair[0], recipe))
    table = pl.DataFrame([candidate.model_dump() for candidate, _ in heads])
    edges = (recipe.log10_c_grid[0], recipe.log10_c_grid[-1])
    return FittedProbe(
        weight_kd=head.weight_kd.astype(np.float32),
        bias_k=head.bias_k.astype(np.float32),
        log10_c=chosen.log10_c,
        at_grid_edge=chosen.log10_c in edges,
        candidates=table.with_columns(chosen=pl.col("log10_c") == chosen.log10_c),
    )


def _rank(candidate: Candidate, recipe: ProbeRecipe) -> tuple[float, float]:
    """Higher is better. The loss is a proper score: on a small val part it chooses more steadily than a count of hits."""
    by_metric = (candidate.val_metric, -candidate.val_loss)
    return by_metric if recipe.select_by == "metric" else (by_metric[1], by_metric[0])


def _require_usable(part: str, xy: LabelledFeatures, num_classes: int, *, width: int) -> None:
    features_nd, labels_n = xy
    if features_nd.ndim != 2 or features_nd.shape != (len(labels_n), width) or len(labels_n) == 0:
        raise ProbeError(
            f"{part}: features {features_nd.shape} and {len(labels_n)} labels; "
            f"one row of {width} features is needed per label"
        )
    broken = np.flatnonzero(~np.isfinite(features_nd).all(axis=1))
    if broken.size:
        raise ProbeError(
            f"{part}: {broken.size} rows hold NaN or infinity, the first is row {broken[0]}; embed them again"
        )
    if labels_n.min() < 0 or labels_n.max() >= num_classes:
        raise ProbeError(
            f"{part}: labels run from {labels_n.min()} to {labels_n.max()}, classes from 0 to {num_classes - 1}"
        )
    if part == "train" and len(np.unique(labels_n)) < 2:
        raise ProbeError(f"train: all {len(labels_n)} images are of class {labels_n[0]}; two classes are needed to fit")


def _fit_grid(
    train_xy: LabelledFeatures, num_classes: int, recipe: ProbeRecipe
) -> Iterator[tuple[float, Head, SolverReport]]:
    """Heads along the grid, each solve starting from the one before it."""
    from sklearn.linear_model import LogisticRegression

    features_nd, labels_n = train_xy
    mean_d, std_d = _standardisation(features_nd)
    standardised_nd = ((features_nd - mean_d) / std_d).astype(np.float32)
    solver = LogisticRegression(max_iter=recipe.max_iterations, tol=recipe.tolerance, warm_start=True)
    for log10_c in recipe.log10_c_grid:
        report = _solve(solver.set_params(C=10.0**log10_c), standardised_nd, labels_n)
        yield log10_c, _folded(_all_classes(solver, num_classes, len(labels_n)), mean_d, std_d), report


def _standardisation(features_nd: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Mean and scale of each feature: its standard deviation, with a floor for features that hardly vary.

    Without the floor one stray activation of a nearly constant feature outweighs all others (docs/log.md).
    """
    mean_d = features_nd.mean(axis=0, dtype=np.float64)
    std_d = features_nd.std(axis=0, dtype=np.float64)
    varying = std_d[std_d > 1e-12]
    floor = _STD_FLOOR * float(np.median(varying)) if varying.size else 1.0
    return mean_d, np.maximum(std_d, floor)


def _solve(solver: LogisticRegression, features_nd: NDArray[np.float32], labels_n: NDArray[np.int64]) -> SolverReport:
    from sklearn.exceptions import ConvergenceWarning

    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        solver.fit(features_nd, labels_n)
    converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    return SolverReport(int(solver.n_iter_.max()), converged, time.perf_counter() - started)


def _all_classes(solver: LogisticRegression, num_classes: int, train_images: int) -> Head:
    """The solver's rows at their class indices, the rows of absent classes below the mean of the others."""
    weight_kd, bias_k = solver.coef_.astype(np.float64), solver.intercept_.astype(np.float64)
    if len(weight_kd) == 1:
        # Two classes: scikit-learn keeps the difference of the two logits only.
        weight_kd, bias_k = np.concatenate([-weight_kd, weight_kd]) / 2, np.concatenate([-bias_k, bias_k]) / 2
    head = Head(
        np.tile(weight_kd.mean(axis=0), (num_classes, 1)),
        np.full(num_classes, bias_k.mean() - np.log(train_images + 1)),
    )
    head.weight_kd[solver.classes_], head.bias_k[solver.classes_] = weight_kd, bias_k
    return head


def _folded(head: Head, mean_d: Floats, std_d: Floats) -> Head:
    """The same logits from raw features."""
    weight_kd = head.weight_kd / std_d
    return Head(weight_kd, head.bias_k - weight_kd @ mean_d)


def _scored(
    log10_c: float,
    head: Head,
    report: SolverReport,
    train_xy: LabelledFeatures,
    val_xy: LabelledFeatures,
    metric: MetricName,
) -> Candidate:
    val_logits_nk = head.logits(val_xy[0])
    return Candidate(
        log10_c=log10_c,
        train_metric=score(head.logits(train_xy[0]), train_xy[1], metric),
        val_metric=score(val_logits_nk, val_xy[1], metric),
        val_loss=cross_entropy(val_logits_nk, val_xy[1]),
        **report._asdict(),
    )
