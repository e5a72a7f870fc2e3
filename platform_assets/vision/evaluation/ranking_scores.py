"""How well the scores of a class tell its images from all others: AUROC and average precision, one against the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.evaluation.bootstrap import Weights, sums_by_class
from platform_assets.vision.evaluation.scores import Floats


class Rankings(NamedTuple):
    """One value a class; NaN where it is not defined.

    auroc: how often an image of the class has a higher score than another one, equals counting half (Mann and Whitney
    1947); needs both. ap: the precision at the score of each image of the class, averaged (as scikit-learn's
    average_precision_score, without interpolation); needs an image of the class.
    """

    auroc: Floats
    ap: Floats


class RankingTerms(NamedTuple):
    """What every image adds to AUROC and AP, [n, 2] each.

    To those of its class: the figure that is averaged over the images of it (`own`), and what its weight moves the average
    by beside (`moved`). To the mean over the classes, as one of the others: what its weight moves that by (`others`).
    """

    own: NDArray[np.float64]
    moved: NDArray[np.float64]
    others: NDArray[np.float64]


def ranking_terms(scores_nk: Floats, truth_n: NDArray[Any]) -> RankingTerms:
    """Each column of scores against the images of its class, by one sort; for AUROC the components of DeLong et al. (1988).

    Any increasing function of the scores gives the same.
    """
    images = len(truth_n)
    classes, images_k = np.unique(truth_n, return_counts=True)
    terms = RankingTerms(*(np.zeros((images, 2)) for _ in range(3)))
    ranked = max(1, (images_k < images).sum())
    for k in classes:
        order = np.argsort(scores_nk[:, k])
        of_class_n = (truth_n == k)[order]
        mine, rest = order[of_class_n], order[~of_class_n]
        terms.own[mine], terms.moved[mine], others = _terms_of_class(scores_nk[order, k], of_class_n)
        terms.others[rest] += others / (ranked, len(classes))
    return terms


def _terms_of_class(scores_n: Floats, of_class_n: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """Of scores in rising order: own and moved of the images of the class, and others of the rest."""
    own_p, images = scores_n[of_class_n], len(scores_n)
    own, others = len(own_p), images - len(own_p)
    below_n, up_to_n = (np.searchsorted(own_p, scores_n, side=side) for side in ("left", "right"))
    first_p, last_p = (np.searchsorted(scores_n, own_p, side=side) for side in ("left", "right"))
    lost_n = (below_n + up_to_n) / 2 / own
    won_p = ((first_p + last_p) / 2 - lost_n[of_class_n] * own) / others if others else np.full(own, np.nan)
    lost_n = lost_n - (lost_n[~of_class_n].mean() if others else 0)
    at_least_p = images - first_p
    precision_p = (own - below_n[of_class_n]) / at_least_p
    ap = precision_p.mean()
    # An image is one more `at_least` of each own image up to its score; an own image is one more right one too.
    seen_n = np.append(0, (precision_p / at_least_p).cumsum())[up_to_n]
    hits_p = (1 / at_least_p).cumsum()[up_to_n[of_class_n] - 1]
    return (
        np.stack([won_p, precision_p + hits_p - ap], axis=1),
        np.stack([np.zeros(own), (ap - seen_n[of_class_n]) / own], axis=1),
        np.stack([-lost_n / max(1, others), -seen_n / own], axis=1)[~of_class_n],
    )


def rankings(terms: RankingTerms, truth_n: NDArray[Any], classes: int) -> Rankings:
    """The figures of all images."""
    images_k = np.bincount(truth_n, minlength=classes)
    with np.errstate(invalid="ignore"):
        auroc_k, ap_k = (np.bincount(truth_n, terms.own[:, score], classes) / images_k for score in (0, 1))
    return Rankings(auroc_k, ap_k)


def resampled_rankings(
    terms: RankingTerms, truth_n: NDArray[Any], unit_n: NDArray[Any], images_dk: Floats, weights_ud: Weights
) -> tuple[Floats, Floats]:
    """The mean AUROC and the mean AP over the classes that are in each draw; `images_dk` is how many images of each are.

    The images of a class are drawn with their figures; what the weights of others do to these is taken to first order
    (the linear bootstrap, Davison and Hinkley 1997, section 2.7), so that the time does not grow with the square of the
    images. Of some 80 images in all the intervals are a little narrow (docs/benchmarks.md).
    """
    classes = images_dk.shape[1]
    found = []
    for score in (0, 1):
        own_n, moved_n, others_n = (each[:, score] for each in terms)
        own_dk = sums_by_class(truth_n, unit_n, classes, weights_ud, own_n)
        moved_dk = sums_by_class(truth_n, unit_n, classes, weights_ud, moved_n)
        with np.errstate(invalid="ignore"):
            of_class_dk = own_dk / images_dk + moved_dk - np.bincount(truth_n, moved_n, classes)
        others_u = np.bincount(unit_n, others_n, len(weights_ud))
        # Weights of a draw sum to the units: less its mean, this is what they move the mean over the classes by.
        others_u = (others_u - others_u.mean()).astype(weights_ud.dtype)
        found.append(np.clip(mean_where_defined(of_class_dk) + others_u @ weights_ud, 0, 1))
    return found[0], found[1]


def mean_where_defined(values: Floats) -> Floats:
    """Over the last axis, leaving NaN out; NaN where nothing is left."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0).sum(axis=-1) / defined.sum(axis=-1))
