"""The linear probe: multinomial logistic regression on frozen features, its regularization chosen on the val part."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

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


class ProbeError(ValueError):
    """Features and labels that no probe can be fitted on."""


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
    """Fit on train for every C of the recipe, take the best on val: by metric, then by val loss, then the smaller C.

    A class without train images keeps its logit, log(n_train + 1) below the mean of the others: never predicted, and
    its loss stays finite. Raises ProbeError on unusable features or labels.
    """
    for part, xy in (("train", train_xy), ("val", val_xy)):
        _require_usable(part, xy, num_classes, width=train_xy[0].shape[1])
    candidates: list[Candidate] = []
    best: tuple[tuple[float, float], NDArray[np.float32], NDArray[np.float32]] | None = None
    for log10_c, weight_kd, bias_k, fit in _heads(train_xy, num_classes, recipe):
        candidate = _scored(log10_c, weight_kd, bias_k, fit, train_xy, val_xy, metric)
        candidates.append(candidate)
        if on_candidate is not None:
            on_candidate(candidate)
        rank = (candidate.val_metric, -candidate.val_loss)
        if best is None or rank > best[0]:
            best, chosen = (rank, weight_kd, bias_k), candidate
    assert best is not None, "a recipe has one point or more"
    return _fitted(best[1], best[2], chosen, candidates)
