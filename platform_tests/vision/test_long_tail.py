"""Accuracy by train images per class, against scikit-learn's recall and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import recall_score

from platform_assets.vision.long_tail import ShotAccuracy, shot_accuracy
from platform_assets.vision.scores import count


def test_shot_accuracy__by_hand_at_the_bounds() -> None:
    # Train images: 101 is many, 100 and 20 are medium, 19 is few.
    truth_n = np.array([0, 0, 1, 2, 2, 2, 2, 3])
    prediction_n = np.array([0, 1, 1, 2, 0, 0, 0, 0])
    found = shot_accuracy(count(truth_n, prediction_n, 4), np.array([101, 100, 20, 19]))
    assert found == ShotAccuracy(many=1 / 2, medium=(1 / 1 + 1 / 4) / 2, few=0.0)


def test_shot_accuracy__no_class_of_a_kind_or_no_image_of_it_is_none() -> None:
    # Class 1 is rare and not evaluated, class 2 has no train image at all and is.
    counts = count(np.array([0, 2]), np.array([0, 0]), 3)
    assert shot_accuracy(counts, np.array([500, 3, 0])) == ShotAccuracy(many=1.0, medium=None, few=0.0)
    assert shot_accuracy(counts, np.array([500, 3, 50])) == ShotAccuracy(many=1.0, medium=0.0, few=None)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60),
    st.lists(st.integers(0, 150), min_size=6, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_shot_accuracy__is_the_mean_recall_of_its_classes(pairs: list[tuple[int, int]], train: list[int]) -> None:
    truth_n, prediction_n = np.array(pairs).T
    found = shot_accuracy(count(truth_n, prediction_n, 6), np.array(train))
    present = set(truth_n.tolist())
    for name, (low, high) in {"many": (101, 999), "medium": (20, 100), "few": (0, 19)}.items():
        classes = [k for k in range(6) if low <= train[k] <= high and k in present]
        expected = recall_score(truth_n, prediction_n, labels=classes, average="macro") if classes else None
        assert getattr(found, name) == (pytest.approx(expected) if classes else None)


def test_shot_accuracy__refuses_counts_of_another_label_map() -> None:
    with pytest.raises(ValueError, match="of 2 classes and counts of 3; count both by the same label map"):
        shot_accuracy(count(np.array([0]), np.array([0]), 3), np.array([1, 2]))
