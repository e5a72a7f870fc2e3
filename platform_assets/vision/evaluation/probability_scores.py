"""Scores of predicted probabilities: Brier score and calibration error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.evaluation.scores import Floats

CALIBRATION_BINS = 15


def brier_of_images(probabilities_nk: Floats, truth_n: NDArray[Any]) -> NDArray[np.float64]:
    """Per image the squared distance from its probabilities to the truth, summed over the classes: 0 to 2 (Brier 1950).

    For two classes it is twice what scikit-learn gives by default.
    """
    truth_probability_n = probabilities_nk[np.arange(len(truth_n)), truth_n]
    return np.asarray((probabilities_nk.astype(np.float64) ** 2).sum(axis=1) - 2 * truth_probability_n + 1)


def calibration_error(confidence_n: Floats, right_n: NDArray[np.bool_], *, adaptive: bool = False) -> float:
    """Gaps of confidence to accuracy, weighted by the images of their bins: ECE (Naeini et al. 2015), 15 bins of equal
    width, or adaptive (Nixon et al. 2019, arXiv 1904.01685), 15 bins of equally many images."""
    images = len(confidence_n)
    if adaptive:
        order_n = np.argsort(confidence_n, kind="stable")
        bins = [part for part in np.array_split(order_n, min(CALIBRATION_BINS, images)) if len(part)]
    else:
        bin_n = calibration_bins(confidence_n)
        bins = [np.flatnonzero(bin_n == number) for number in np.unique(bin_n)]
    gaps = [len(part) * abs(confidence_n[part].mean() - right_n[part].mean()) for part in bins]
    return float(sum(gaps) / images)


def calibration_bins(confidence_n: Floats) -> NDArray[np.int64]:
    """The bin of equal width of each image, [low, high) with 1.0 in the last."""
    return np.clip(np.floor(confidence_n * CALIBRATION_BINS), 0, CALIBRATION_BINS - 1).astype(np.int64)
