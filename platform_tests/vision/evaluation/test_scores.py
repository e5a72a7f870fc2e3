"""Scores against scikit-learn and against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as oracle

from platform_assets.vision.evaluation.scores import (
    SCORES,
    EvaluationError,
    balanced_accuracy,
    count,
    cross_entropy,
    log_softmax,
    macro_f1,
    micro_f1,
    score,
    top1,
    top_k,
)

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
CLASSES = 5


@st.composite
def truths_and_predictions(draw: Any) -> Pairs:
    pairs = draw(st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40))
    truth, prediction = zip(*pairs, strict=True)
    return np.array(truth), np.array(prediction)


@pytest.mark.filterwarnings("ignore:y_pred contains classes", "ignore:A single label was found")
@settings(max_examples=60)
@given(truths_and_predictions())
def test_scores__are_those_of_scikit_learn(pairs: Pairs) -> None:
    counts = count(*pairs, CLASSES)
    assert top1(counts) == pytest.approx(oracle.accuracy_score(*pairs))
    assert balanced_accuracy(counts) == pytest.approx(oracle.balanced_accuracy_score(*pairs))
    assert macro_f1(counts) == pytest.approx(oracle.f1_score(*pairs, average="macro", zero_division=0))
    assert micro_f1(counts) == pytest.approx(oracle.f1_score(*pairs, average="micro"))
    assert micro_f1(counts) == pytest.approx(top1(counts))


def test_scores__by_hand_with_an_absent_class() -> None:
    # Class 2 is absent everywhere, class 3 is predicted once and never true.
    counts = count(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 3]), 4)
    assert top1(counts) == 2 / 4
    assert balanced_accuracy(counts) == (2 / 3 + 0 / 1) / 2
    assert macro_f1(counts) == pytest.approx((4 / 5 + 0 + 0) / 3)


def test_score__takes_the_argmax_with_ties_to_the_smaller_index() -> None:
    logits_nk = np.array([[1.0, 1.0], [0.0, 2.0]])
    assert [score(logits_nk, np.array([0, 1]), metric) for metric in SCORES] == [1.0, 1.0, 1.0]
    assert score(logits_nk, np.array([1, 1]), "top1") == 0.5


@pytest.mark.parametrize("logits", [np.zeros((0, 3)), np.array([[0.0, np.nan, 1.0]]), np.array([[0.0, np.inf, 1.0]])])
def test_score__never_a_figure_of_nothing(logits: NDArray[np.float64]) -> None:
    with pytest.raises(EvaluationError, match="cannot be computed"):
        score(logits, np.zeros(len(logits), dtype=np.int64), "macro_f1")


def test_cross_entropy__is_log_loss_and_survives_extreme_logits() -> None:
    logits_nk = np.random.default_rng(0).normal(size=(20, 4)) * 3
    truth_n = np.arange(20) % 4
    assert cross_entropy(logits_nk, truth_n) == pytest.approx(oracle.log_loss(truth_n, np.exp(log_softmax(logits_nk))))
    assert cross_entropy(np.array([[5000.0, -5000.0]], dtype=np.float32), np.array([1])) == 10_000.0


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k__is_that_of_scikit_learn(k: int) -> None:
    logits_nk = np.random.default_rng(1).normal(size=(50, 6))
    truth_n = np.arange(50) % 6
    assert top_k(logits_nk, truth_n, k) == pytest.approx(oracle.top_k_accuracy_score(truth_n, logits_nk, k=k))


def test_top_k__all_classes_and_ties() -> None:
    logits_nk = np.zeros((3, 3))
    assert top_k(logits_nk, np.array([0, 0, 1]), 1) == pytest.approx(2 / 3)
    assert top_k(logits_nk, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)
    assert top_k(logits_nk, np.array([0, 1, 2]), 5) == 1.0
