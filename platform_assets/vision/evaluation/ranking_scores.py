"""How well the scores of a class tell its images from all others: AUROC and average precision, one against the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.evaluation.bootstrap import Weights
from platform_assets.vision.evaluation.scores import Floats

MOST_IMAGES_RESAMPLED = 6000


class Rankings(NamedTuple):
    """One value a class, on the last axis; NaN where it is not defined.

    auroc: how often an image of the class has a higher score than another one, equals counting half (Mann and Whitney
    1947); needs both. ap: the precision at the score of each image of the class, averaged (as scikit-learn's
    average_precision_score, without interpolation); needs an image of the class.
    """

    auroc: Floats
    ap: Floats


def rankings(scores_nk: Floats, truth_n: NDArray[Any]) -> Rankings:
    """Each column of scores against the images of its class. Any increasing function of the scores gives the same."""
    from scipy.stats import rankdata

    images, classes = scores_nk.shape
    auroc_k, ap_k = np.full(classes, np.nan), np.full(classes, np.nan)
    for k in np.unique(truth_n):
        scores_n, of_class_n = scores_nk[:, k], truth_n == k
        own = scores_n[of_class_n]
        if others := images - len(own):
            auroc_k[k] = (rankdata(scores_n)[of_class_n] - rankdata(own)).mean() / others
        at_least_n = rankdata(-scores_n, method="max")  # images with this score or a higher one
        ap_k[k] = (rankdata(-own, method="max") / at_least_n[of_class_n]).mean()
    return Rankings(auroc_k, ap_k)


def ranking_influences(scores_nk: Floats, truth_n: NDArray[Any]) -> NDArray[np.float64]:
    """[n, 2]: how fast the mean AUROC and the mean AP over the classes grow with the weight of each image, at weights of one.

    Weights w move them, to first order, by w times these, which sum to 0: the linear bootstrap (Davison and Hinkley 1997,
    section 2.7). Of the AUROC they are the components of DeLong et al. (1988). Sorting is all it takes, however many draws.
    """
    images = len(truth_n)
    auroc_n, ap_n = np.zeros(images), np.zeros(images)
    classes, images_k = np.unique(truth_n, return_counts=True)
    for k in classes:
        of_class_n = truth_n == k
        auroc_of_n, ap_of_n = _influences(scores_nk[:, k], of_class_n)
        auroc_n += auroc_of_n / max(1, (images_k < images).sum())
        ap_n += ap_of_n / len(classes)
    return np.stack([auroc_n, ap_n], axis=1)


def _influences(scores_n: Floats, of_class_n: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of one class: its AUROC (0 where every image is of it) and its AP."""
    own_p, all_n = np.sort(scores_n[of_class_n]), np.sort(scores_n)
    own, others = len(own_p), len(all_n) - len(own_p)
    own_below_n, own_up_to_n = (np.searchsorted(own_p, scores_n, side=side) for side in ("left", "right"))
    at_least_p = len(all_n) - np.searchsorted(all_n, own_p, side="left")
    own_at_least_p = own - np.searchsorted(own_p, own_p, side="left")
    precision_p = own_at_least_p / at_least_p
    # Each image adds to `at_least` of the own images up to its score, and each own image to `own_at_least` too.
    seen_n = np.append(0, (precision_p / at_least_p).cumsum())[own_up_to_n]
    hit_n = np.append(0, (1 / at_least_p).cumsum())[own_up_to_n]
    precision_n = np.append(precision_p, 0)[np.minimum(own_below_n, own)]
    ap_n = np.where(of_class_n, precision_n - precision_p.mean() + hit_n, 0) - seen_n
    if not others:
        return np.zeros_like(ap_n), ap_n / own
    own_mid_n = (own_below_n + own_up_to_n) / 2
    all_mid_n = (np.searchsorted(all_n, scores_n, side="left") + np.searchsorted(all_n, scores_n, side="right")) / 2
    won_n = np.where(of_class_n, (all_mid_n - own_mid_n) / others, 1 - own_mid_n / own)
    auroc = won_n[of_class_n].mean()
    return (won_n - auroc) / np.where(of_class_n, own, others), ap_n / own


def resampled_rankings(scores_nk: Floats, truth_n: NDArray[Any], weights_nd: Weights) -> Rankings:
    """The same under weights of the images, one column a draw: arrays of [draws, classes].

    Every image of a class is compared with every image, in one product of matrices a class: the time grows with the square
    of the images (MOST_IMAGES_RESAMPLED), and hardly with the classes.
    """
    draws, classes = weights_nd.shape[1], scores_nk.shape[1]
    auroc_dk, ap_dk = np.full((draws, classes), np.nan), np.full((draws, classes), np.nan)
    for k in np.unique(truth_n):
        of_class_n = truth_n == k
        auroc_dk[:, k], ap_dk[:, k] = _weighted(scores_nk[:, k], of_class_n, weights_nd)
    return Rankings(auroc_dk, ap_dk)


def _weighted(scores_n: Floats, of_class_n: NDArray[np.bool_], weights_nd: Weights) -> tuple[Floats, Floats]:
    own, own_pd = scores_n[of_class_n], weights_nd[of_class_n]
    above_pd, equal_pd = _compared(own, scores_n, weights_nd)
    own_above_pd, own_equal_pd = _compared(own, own, own_pd)
    lost_pd = (above_pd - own_above_pd) + (equal_pd - own_equal_pd) / 2
    seen_pd = np.maximum(above_pd + equal_pd, 1)  # 0 only where the image itself is not drawn
    own_d = own_pd.sum(axis=0, dtype=np.float64)
    others_d = weights_nd.sum(axis=0, dtype=np.float64) - own_d
    with np.errstate(invalid="ignore"):
        auroc_d = 1 - (own_pd * lost_pd).sum(axis=0, dtype=np.float64) / (own_d * others_d)
        return auroc_d, (own_pd * (own_above_pd + own_equal_pd) / seen_pd).sum(axis=0, dtype=np.float64) / own_d


def _compared(own_p: Floats, scores_q: Floats, weights_qd: Weights) -> tuple[Weights, Weights]:
    """For each image of the class the weight of what scores higher, and of what scores the same, in every draw."""
    above_pq = (scores_q[None] > own_p[:, None]).astype(np.float32)
    equal_pq = scores_q[None] == own_p[:, None]
    tied_q = equal_pq.any(axis=0)
    return above_pq @ weights_qd, equal_pq[:, tied_q].astype(np.float32) @ weights_qd[tied_q]


def mean_where_defined(values: Floats) -> Floats:
    """Over the last axis, leaving NaN out; NaN where nothing is left."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0).sum(axis=-1) / defined.sum(axis=-1))
