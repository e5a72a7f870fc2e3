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
    gaps_nb = calibration_gaps(confidence_n, right_n, adaptive=adaptive)
    return float(np.abs(gaps_nb.sum(axis=0)).sum() / len(gaps_nb))


def calibration_gaps(
    confidence_n: Floats, right_n: NDArray[np.bool_], *, adaptive: bool = False
) -> NDArray[np.float64]:
    """[n, 15]: confidence less correctness of each image, in the column of its bin. Sums of rows give the error of them."""
    images = len(confidence_n)
    if adaptive:
        bins = np.array_split(np.argsort(confidence_n, kind="stable"), min(CALIBRATION_BINS, images))
        bin_n = np.empty(images, dtype=np.int64)
        for number, rows in enumerate(bins):
            bin_n[rows] = number
    else:
        bin_n = _bins_of_equal_width(confidence_n)
    gaps_nb = np.zeros((images, CALIBRATION_BINS))
    gaps_nb[np.arange(images), bin_n] = confidence_n - right_n
    return gaps_nb


def _bins_of_equal_width(confidence_n: Floats) -> NDArray[np.int64]:
    """[low, high) with 1.0 in the last."""
    return np.clip(np.floor(confidence_n * CALIBRATION_BINS), 0, CALIBRATION_BINS - 1).astype(np.int64)
