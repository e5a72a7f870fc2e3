"""AUROC and average precision against scikit-learn, with ties, absent classes and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from platform_assets.vision.evaluation.bootstrap import weight_blocks
from platform_assets.vision.evaluation.ranking_scores import (
    mean_where_defined,
    ranking_influences,
    rankings,
    resampled_rankings,
)

CLASSES = 3
Ranked = tuple[NDArray[np.float64], NDArray[np.int64]]


@st.composite
def scores_and_truths(draw: Any) -> Ranked:
    """Few different scores, so that most have ties."""
    images = draw(st.integers(1, 25))
    rows = st.lists(st.integers(-2, 2), min_size=CLASSES, max_size=CLASSES)
    scores = draw(st.lists(rows, min_size=images, max_size=images))
    truths = draw(st.lists(st.integers(0, CLASSES - 1), min_size=images, max_size=images))
    return np.array(scores, dtype=np.float64), np.array(truths)


def _oracle(scores_n: NDArray[Any], of_class_n: NDArray[Any], weights_n: NDArray[Any] | None = None) -> list[float]:
    """NaN where scikit-learn warns or raises."""
    there = np.ones(len(scores_n)) if weights_n is None else weights_n
    both = len(set(of_class_n[there > 0])) == 2
    auroc = roc_auc_score(of_class_n, scores_n, sample_weight=weights_n) if both else np.nan
    seen = (there > 0) & of_class_n
    return [auroc, average_precision_score(of_class_n, scores_n, sample_weight=weights_n) if seen.any() else np.nan]


@settings(max_examples=50, deadline=None)
@given(scores_and_truths())
def test_rankings__are_those_of_scikit_learn(ranked: Ranked) -> None:
    scores_nk, truth_n = ranked
    found = rankings(scores_nk, truth_n)
    for k in range(CLASSES):
        assert [found.auroc[k], found.ap[k]] == pytest.approx(_oracle(scores_nk[:, k], truth_n == k), nan_ok=True)


def test_rankings__macro_is_that_of_scikit_learn_on_many_classes() -> None:
    generator = np.random.default_rng(0)
    scores_nk, truth_n = generator.normal(size=(500, 30)), np.arange(500) % 30
    probabilities_nk = np.exp(scores_nk) / np.exp(scores_nk).sum(axis=1, keepdims=True)
    found = rankings(probabilities_nk, truth_n)
    wanted = roc_auc_score(truth_n, probabilities_nk, multi_class="ovr", average="macro")
    assert mean_where_defined(found.auroc) == pytest.approx(wanted)
    precision = average_precision_score(np.eye(30)[truth_n], probabilities_nk, average="macro")
    assert mean_where_defined(found.ap) == pytest.approx(precision)


def test_rankings__by_hand() -> None:
    # Class 0: images 0 and 2 of the scores 3, 2, 1; one of two pairs is in order; precisions 1 and 2/3.
    found = rankings(np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), np.array([0, 1, 0]))
    assert found.auroc.tolist() == [0.5, 0.5]
    assert found.ap.tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 3])


@pytest.mark.parametrize(("truths", "auroc", "ap"), [([0, 0], [None] * 3, [1.0, None, None]), ([2], [None] * 3, None)])
def test_rankings__of_one_class_are_not_defined(truths: list[int], auroc: list[Any], ap: list[Any] | None) -> None:
    found = rankings(np.zeros((len(truths), 3)), np.array(truths))
    assert np.isnan(found.auroc).tolist() == [value is None for value in auroc]
    assert np.isnan(found.ap).tolist() == [value is None for value in ap or [None, None, 1.0]]
    assert np.isnan(mean_where_defined(found.auroc))


@settings(max_examples=30, deadline=None)
@given(scores_and_truths(), st.integers(0, 100))
def test_resampled_rankings__are_those_of_scikit_learn_with_weights(ranked: Ranked, draw: int) -> None:
    scores_nk, truth_n = ranked
    weights_nd = next(weight_blocks(len(truth_n), seed=1))[:, draw : draw + 1]
    found = resampled_rankings(scores_nk, truth_n, weights_nd)
    for k in range(CLASSES):
        wanted = _oracle(scores_nk[:, k], truth_n == k, weights_nd[:, 0])
        assert [found.auroc[0, k], found.ap[0, k]] == pytest.approx(wanted, nan_ok=True, abs=1e-6)


@pytest.mark.parametrize("decimals", [8, 0])
@pytest.mark.parametrize("classes", [2, 4])
def test_influences__are_the_slopes_of_what_scikit_learn_weighs(decimals: int, classes: int) -> None:
    """`decimals` 0: most scores are tied."""
    generator = np.random.default_rng(0)
    truth_n = generator.integers(classes, size=40)
    scores_nk = (generator.normal(size=(40, classes + 1)) + np.eye(classes + 1)[truth_n]).round(decimals)
    found = ranking_influences(scores_nk, truth_n)
    assert found.sum(axis=0) == pytest.approx(0, abs=1e-12)

    def means(weights_n: NDArray[Any]) -> list[float]:
        return [
            np.mean([score(truth_n == k, scores_nk[:, k], sample_weight=weights_n) for k in range(classes)])
            for score in (roc_auc_score, average_precision_score)
        ]

    for row in range(40):
        step_n = 1e-4 * (np.arange(40) == row)
        slopes = np.subtract(means(1 + step_n), means(1 - step_n)) / 2e-4
        assert found[row] == pytest.approx(slopes, abs=1e-6), row
