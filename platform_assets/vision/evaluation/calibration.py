"""What is fitted on val so that a classifier says how sure it is: temperature, threshold of label sets, when to abstain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.evaluation.conformal import prediction_sets, set_threshold
from platform_assets.vision.evaluation.scores import cross_entropy, log_softmax
from platform_assets.vision.recipes.uncertainty_options import SetMethod, UncertaintyOptions

Floats = NDArray[np.floating[Any]]
_LOG_TEMPERATURE = (math.log(0.05), math.log(20.0))


class Calibration(BaseModel):
    """Fitted on `images` of val. `set_threshold` None: too few images, every set is of all labels. `answer_from` is the
    confidence from which on answers are right as often as `precision` asks, in `precision_level` of the draws of val; None when
    no confidence was enough."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    images: int
    temperature: float
    coverage: float
    sets: SetMethod
    set_threshold: float | None
    precision: float
    precision_level: float
    answer_from: float | None

    def probabilities(self, logits_nk: Floats) -> NDArray[np.float64]:
        return softmax(logits_nk / self.temperature)

    def label_sets(self, probabilities_nk: Floats) -> NDArray[np.bool_]:
        threshold = math.inf if self.set_threshold is None else self.set_threshold
        return prediction_sets(probabilities_nk, threshold, self.sets)

    def answers(self, probabilities_nk: Floats) -> NDArray[np.bool_]:
        """Of which images the model is sure enough to be asked for one label."""
        if self.answer_from is None:
            return np.zeros(len(probabilities_nk), dtype=bool)
        return np.asarray(probabilities_nk.max(axis=1) >= self.answer_from)


def calibrate(logits_nk: Floats, truth_n: NDArray[Any], options: UncertaintyOptions) -> Calibration:
    """From the logits of val. It also chose the model, so that its figures flatter; a report on test does not."""
    temperature = fit_temperature(logits_nk, truth_n)
    probabilities_nk = softmax(logits_nk / temperature)
    threshold = set_threshold(probabilities_nk, truth_n, coverage=options.coverage, method=options.sets)
    return Calibration(
        images=len(truth_n),
        temperature=temperature,
        coverage=options.coverage,
        sets=options.sets,
        set_threshold=threshold if math.isfinite(threshold) else None,
        precision=options.precision,
        precision_level=options.precision_level,
        answer_from=answer_from(
            probabilities_nk.max(axis=1),
            probabilities_nk.argmax(axis=1) == truth_n,
            options.precision,
            level=options.precision_level,
        ),
    )


def fit_temperature(logits_nk: Floats, truth_n: NDArray[Any]) -> float:
    """The T that logits are divided by for the least loss (Guo et al. 2017, arXiv 1706.04599), 0.05 to 20.

    Labels do not change. Where every image is right it is 1: nothing tells how sure to be, and the least loss, at 0.05, would
    have every other image said to be certain.
    """
    from scipy.optimize import minimize_scalar

    if (logits_nk.argmax(axis=1) == truth_n).all():
        return 1.0
    found = minimize_scalar(
        lambda log_t: cross_entropy(logits_nk / math.exp(log_t), truth_n),
        bounds=_LOG_TEMPERATURE,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(found.x)


def answer_from(confidence_n: Floats, right_n: NDArray[np.bool_], precision: float, *, level: float) -> float | None:
    """The lowest confidence such that `precision` of all images at or above it are right, in `level` of the draws of these.

    A threshold passes where the lower one-sided Clopper-Pearson bound of the share right is at least `precision`. Thresholds
    are tried from the most confident downwards until the first that fails, so that trying many keeps the level: fixed-sequence
    testing (Angelopoulos et al. 2021, arXiv 2110.01052; the aim is that of Geifman and El-Yaniv 2017, arXiv 1705.08500). The
    first has the fewest images of which one may be wrong. None when it fails, or when there are fewer images.
    """
    from scipy.stats import binom

    order_n = np.argsort(-confidence_n, kind="stable")
    confidence_n, right_n = confidence_n[order_n], right_n[order_n]
    images_n = np.arange(1, len(right_n) + 1)
    # The bound is at least `precision` where, at just that precision, so many right would be this rare.
    passed_n = binom.sf(right_n.cumsum() - 1, images_n, precision) <= 1 - level
    large_n = binom.sf(images_n - 2, images_n, precision) <= 1 - level
    # Images of one confidence are answered together.
    last_of_equals_n = np.append(confidence_n[1:] != confidence_n[:-1], True)
    tried = np.flatnonzero(last_of_equals_n & large_n)
    passed = tried[np.logical_and.accumulate(passed_n[tried])]
    return float(confidence_n[passed[-1]]) if passed.size else None


def softmax(logits_nk: Floats) -> NDArray[np.float64]:
    return np.asarray(np.exp(log_softmax(logits_nk)))
