"""Label sets: equal to MAPIE's or to a loop, covering as often as stated, and stated results where there is little to go by."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from platform_assets.vision.evaluation.conformal import (
    coverage_band,
    label_scores,
    prediction_sets,
    set_threshold,
)


class GivenProbabilities(ClassifierMixin, BaseEstimator):
    """Probabilities in, probabilities out: what MAPIE calls a fitted classifier."""

    def __init__(self, classes: int = 2) -> None:
        self.classes = classes
        self.classes_ = np.arange(classes)

    def fit(self, x_nk: Any, y_n: Any) -> GivenProbabilities:
        return self

    def predict_proba(self, x_nk: Any) -> Any:
        return x_nk

    def predict(self, x_nk: Any) -> Any:
        return x_nk.argmax(axis=1)

    def __sklearn_is_fitted__(self) -> bool:
        return True


def drawn(images: int, classes: int, seed: int, concentration: float = 0.4) -> tuple[Any, Any]:
    """Probabilities, and truths that come as often as those say."""
    random = np.random.default_rng(seed)
    probabilities_nk = random.dirichlet(np.full(classes, concentration), size=images)
    truth_n = (random.random((images, 1)) > probabilities_nk.cumsum(axis=1)).sum(axis=1)
    return probabilities_nk, np.minimum(truth_n, classes - 1)


@pytest.mark.parametrize("classes", [2, 7, 40])
@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
def test_sets__lac_is_mapies(classes: int, coverage: float) -> None:
    (val_nk, truth_n), (test_nk, _) = drawn(301, classes, 0), drawn(200, classes, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MAPIE, on sums of probabilities that differ from 1 in the last digit
        mapie = SplitConformalClassifier(
            GivenProbabilities(classes), confidence_level=coverage, conformity_score="lac", prefit=True
        )
        theirs = mapie.conformalize(val_nk, truth_n).predict_set(test_nk)[1][:, :, 0]
    threshold = set_threshold(val_nk, truth_n, coverage=coverage, method="lac")
    ours = label_scores(test_nk, "lac") <= threshold
    assert (ours == theirs).all()
    assert ours.any(axis=0).all() or classes > 7  # not all alike


@pytest.mark.parametrize("method", ["aps", "raps"])
def test_sets__take_labels_in_turn_up_to_the_threshold(method: Any) -> None:
    """MAPIE draws a random part while it calibrates, so that it is no measure of these two."""
    (val_nk, truth_n), (test_nk, _) = drawn(301, 9, 0), drawn(100, 9, 1)
    penalty = 0.01 if method == "raps" else 0.0
    threshold = set_threshold(val_nk, truth_n, coverage=0.9, method=method)
    sets_nk = prediction_sets(test_nk, threshold, method)
    for probabilities_k, found_k in zip(test_nk, sets_nk, strict=True):
        total, wanted = 0.0, set[int]()
        for rank, label in enumerate(sorted(range(9), key=lambda k: -probabilities_k[k]), start=1):
            if total + penalty * max(0, rank - 5) <= threshold:
                wanted.add(label)
            total += probabilities_k[label]
        assert set(np.flatnonzero(found_k)) == wanted


def test_scores__by_hand() -> None:
    probabilities_nk = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])
    assert label_scores(probabilities_nk, "lac") == pytest.approx(1 - probabilities_nk)
    # Equals: the smaller index first.
    assert label_scores(probabilities_nk, "aps") == pytest.approx(np.array([[0.8, 0.0, 0.5], [0.0, 0.8, 0.4]]))
    eight = np.full((1, 8), 1 / 8)
    penalties = [0, 0, 0, 0, 0, 0.01, 0.02, 0.03]
    assert label_scores(eight, "raps")[0] == pytest.approx(np.arange(8) / 8 + penalties)


@pytest.mark.parametrize("concentration", [0.4, 0.1])
@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_sets__hold_the_truth_as_often_as_stated(method: Any, concentration: float) -> None:
    """Of a classifier that is sure and of one that is not: sets that held the likeliest label beyond their rule covered 0.92."""
    found = []
    for seed in range(200):
        (val_nk, truth_n), (test_nk, test_truth_n) = (drawn(200, 12, s, concentration) for s in (seed, 10_000 + seed))
        threshold = set_threshold(val_nk, truth_n, coverage=0.9, method=method)
        found.append(prediction_sets(test_nk, threshold, method)[np.arange(200), test_truth_n].mean())
    assert 0.895 < np.mean(found) < 0.915
    low, high = coverage_band(200, 200, 0.9)
    assert 0.92 < np.mean([low <= share <= high for share in found]) <= 1.0


def test_threshold__too_few_images_give_sets_of_all_labels() -> None:
    probabilities_nk, truth_n = drawn(8, 3, 0)
    # Nine tenths of nine places is the ninth, of eight.
    assert set_threshold(probabilities_nk, truth_n, coverage=0.9, method="lac") == math.inf
    assert prediction_sets(probabilities_nk, math.inf, "lac").all()
    assert math.isfinite(set_threshold(*drawn(9, 3, 0), coverage=0.9, method="lac"))


def test_sets__hold_the_likeliest_label_always() -> None:
    sets_nk = prediction_sets(np.array([[0.4, 0.35, 0.25]]), 0.0, "lac")
    assert sets_nk.tolist() == [[True, False, False]]
