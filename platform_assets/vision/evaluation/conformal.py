"""Sets of labels that hold the truth with a stated frequency: split conformal prediction, by its formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.recipes.uncertainty_options import SetMethod

Floats = NDArray[np.floating[Any]]

# As the paper takes them for many classes (Angelopoulos et al. 2021, arXiv 2009.14193).
RAPS_PENALTY, RAPS_FREE_RANKS = 0.01, 5


def label_scores(probabilities_nk: Floats, method: SetMethod) -> NDArray[np.float64]:
    """How little each label fits each image, [n, k]; a set holds the labels up to a threshold.

    lac: 1 - p (Sadinle et al. 2019, arXiv 1609.00451). aps: the probability of all likelier labels (Romano et al. 2020,
    arXiv 2006.02544), the random part u at 0, so that one image has one set and the likeliest label, whose score is 0, is
    always in it; with u at 1 sets that hold it all the same cover 0.99 where 0.9 is asked for. raps: the same and 0.01 for
    every rank past the fifth (Angelopoulos et al. 2021, arXiv 2009.14193). Equals go to the smaller index, as in top-1.
    """
    if method == "lac":
        return np.asarray(1 - probabilities_nk, dtype=np.float64)
    order_nk = np.argsort(-probabilities_nk, axis=1, kind="stable")
    ordered_nk = np.take_along_axis(probabilities_nk, order_nk, axis=1).astype(np.float64)
    scores_nk = np.hstack([np.zeros((len(ordered_nk), 1)), ordered_nk.cumsum(axis=1)[:, :-1]])
    if method == "raps":
        ranks_k = np.arange(1, scores_nk.shape[1] + 1)
        scores_nk = scores_nk + RAPS_PENALTY * np.maximum(0, ranks_k - RAPS_FREE_RANKS)
    by_label_nk = np.empty_like(scores_nk)
    np.put_along_axis(by_label_nk, order_nk, scores_nk, axis=1)
    return by_label_nk


def set_threshold(probabilities_nk: Floats, truth_n: NDArray[Any], *, coverage: float, method: SetMethod) -> float:
    """The ceil((n + 1) coverage)-th smallest score of the truth; infinite where n images are too few for the coverage."""
    scores_n = np.sort(label_scores(probabilities_nk, method)[np.arange(len(truth_n)), truth_n])
    place = conformal_rank(len(truth_n), coverage)
    return float(scores_n[place - 1]) if place <= len(scores_n) else math.inf


def conformal_rank(images: int, coverage: float) -> int:
    # Rounded first: 0.9 times 10 is a little more than 9 in floating point, and not the tenth place.
    return math.ceil(round((images + 1) * coverage, 9))


def prediction_sets(probabilities_nk: Floats, threshold: float, method: SetMethod) -> NDArray[np.bool_]:
    """[n, k]: the labels whose score is at most the threshold, and the likeliest one always (aps and raps have it anyway)."""
    sets_nk = label_scores(probabilities_nk, method) <= threshold
    sets_nk[np.arange(len(sets_nk)), probabilities_nk.argmax(axis=1)] = True
    return sets_nk


def coverage_band(calibration_images: int, images: int, coverage: float) -> tuple[float, float]:
    """Where the coverage of `images` lies 95 times in 100, over draws of both parts (Vovk 2012, arXiv 1209.2673)."""
    from scipy.stats import betabinom

    place = min(conformal_rank(calibration_images, coverage), calibration_images)
    law = betabinom(images, place, calibration_images + 1 - place)
    low, high = law.ppf([0.025, 0.975]) / images
    return float(low), float(high)
