"""Classification scores as functions of counts and logits; no frames, no files, no resampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.recipes.evaluation_options import MetricName

Floats = NDArray[np.floating[Any]]


class EvaluationError(ValueError):
    """Predictions that no honest figure can be computed from."""


class Counts(NamedTuple):
    """Images per class: rightly predicted, with this truth, with this prediction. The last axis is the class."""

    hits: NDArray[Any]
    truths: NDArray[Any]
    predictions: NDArray[Any]


def count(truth_n: NDArray[Any], prediction_n: NDArray[Any], classes: int) -> Counts:
    return Counts(
        np.bincount(truth_n[truth_n == prediction_n], minlength=classes),
        np.bincount(truth_n, minlength=classes),
        np.bincount(prediction_n, minlength=classes),
    )


def top1(counts: Counts) -> Floats:
    return np.asarray(counts.hits.sum(axis=-1) / counts.truths.sum(axis=-1))


def balanced_accuracy(counts: Counts) -> Floats:
    """Mean recall over the classes present in truth."""
    return _mean_where(counts.hits, counts.truths)


def macro_f1(counts: Counts) -> Floats:
    """Mean F1 over the classes present in truth or predictions, as scikit-learn averages by default."""
    return _mean_where(2 * counts.hits, counts.truths + counts.predictions)


def micro_f1(counts: Counts) -> Floats:
    """F1 of all classes pooled. Every image has one label and one prediction, so that it equals top-1."""
    return np.asarray(2 * counts.hits.sum(axis=-1) / (counts.truths + counts.predictions).sum(axis=-1))


def _mean_where(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    present = denominator > 0
    return np.asarray((numerator / np.where(present, denominator, 1)).sum(axis=-1) / present.sum(axis=-1))


SCORES: dict[MetricName, Callable[[Counts], Floats]] = {
    "top1": top1,
    "macro_f1": macro_f1,
    "balanced_accuracy": balanced_accuracy,
}


def score(logits_nk: Floats, truth_n: NDArray[np.int64], metric: MetricName) -> float:
    """One selection metric from logits; higher is better. EvaluationError on no images or a non-finite logit."""
    if len(truth_n) == 0 or not np.isfinite(logits_nk).all():
        raise EvaluationError(
            f"{metric} of {len(truth_n)} images cannot be computed: there are none, or a logit is not finite"
        )
    return float(SCORES[metric](count(truth_n, logits_nk.argmax(axis=1), logits_nk.shape[1])))


def log_softmax(logits_nk: Floats) -> NDArray[np.float64]:
    shifted_nk = logits_nk.astype(np.float64) - logits_nk.max(axis=1, keepdims=True)
    return np.asarray(shifted_nk - np.log(np.exp(shifted_nk).sum(axis=1, keepdims=True)))


def cross_entropy(logits_nk: Floats, truth_n: NDArray[Any]) -> float:
    """Mean negative log-likelihood of the truth, in nats."""
    return float(-log_softmax(logits_nk)[np.arange(len(truth_n)), truth_n].mean())


def top_k(logits_nk: Floats, truth_n: NDArray[Any], k: int) -> float:
    """Share of images whose truth is among the k highest logits; a tie goes to the smaller index, as in top-1."""
    return float(top_k_hits(logits_nk, truth_n, k).mean())


def top_k_hits(logits_nk: Floats, truth_n: NDArray[Any], k: int) -> NDArray[np.bool_]:
    truth_logit_n1 = np.take_along_axis(logits_nk, truth_n[:, None], axis=1)
    before_nk = np.arange(logits_nk.shape[1]) < truth_n[:, None]
    ahead_n = ((logits_nk > truth_logit_n1) | ((logits_nk == truth_logit_n1) & before_nk)).sum(axis=1)
    return np.asarray(ahead_n < k)
