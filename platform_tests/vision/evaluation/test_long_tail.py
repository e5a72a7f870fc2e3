"""Accuracy by train images per class, against scikit-learn's recall and by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.long_tail import ShotAccuracy, shot_accuracy, shots_of
from platform_assets.vision.evaluation.predictions import compute_metrics, predictions_frame


def test_shot_accuracy__by_hand_at_the_bounds() -> None:
    # Train images: 101 is many, 100 and 20 are medium, 19 is few.
    truth_n = np.array([0, 0, 1, 2, 2, 2, 2, 3])
    prediction_n = np.array([0, 1, 1, 2, 0, 0, 0, 0])
    found = shot_accuracy(confusion_matrix(truth_n, prediction_n, labels=range(4)), np.array([101, 100, 20, 19]))
    assert found == ShotAccuracy(many=1 / 2, medium=(1 / 1 + 1 / 4) / 2, few=0.0)


def test_shots_of__train_images_are_counted_by_the_label_map() -> None:
    # b has 30 train images and a three, so that an order of names by frequency or by appearance shows.
    labels = LabelMap.from_labels(("b", "a"))
    records = pl.DataFrame({"label": ["b"] * 30 + ["a"] * 3 + ["a"], "split": ["train"] * 33 + ["test"]})
    rows = pl.DataFrame({"image_id": ["1", "2"], "path": ["1", "2"], "part": ["test", "test"], "label": ["b", "a"]})
    frame = predictions_frame(rows, np.array([[0, 1], [0, 1]], dtype=np.float32), labels)
    found = shots_of(compute_metrics(frame, labels, "test"), records, labels)
    assert found == ShotAccuracy(many=None, medium=1.0, few=0.0)


def test_shot_accuracy__no_class_of_a_kind_or_no_image_of_it_is_none() -> None:
    # Class 1 is rare and not evaluated, class 2 has no train image at all and is.
    confusion_kk = confusion_matrix([0, 2], [0, 0], labels=range(3))
    assert shot_accuracy(confusion_kk, np.array([500, 3, 0])) == ShotAccuracy(many=1.0, medium=None, few=0.0)
    assert shot_accuracy(confusion_kk, np.array([500, 3, 50])) == ShotAccuracy(many=1.0, medium=0.0, few=None)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60),
    st.lists(st.integers(0, 150), min_size=6, max_size=6),
)
@settings(max_examples=40)
def test_shot_accuracy__is_the_mean_recall_of_its_classes(pairs: list[tuple[int, int]], train: list[int]) -> None:
    truth_n, prediction_n = np.array(pairs).T
    found = shot_accuracy(confusion_matrix(truth_n, prediction_n, labels=range(6)), np.array(train))
    present = set(truth_n.tolist())
    for name, (low, high) in {"many": (101, 999), "medium": (20, 100), "few": (0, 19)}.items():
        classes = [k for k in range(6) if low <= train[k] <= high and k in present]
        expected = recall_score(truth_n, prediction_n, labels=classes, average="macro") if classes else None
        assert getattr(found, name) == (pytest.approx(expected) if classes else None)


def test_shot_accuracy__refuses_a_matrix_of_another_label_map() -> None:
    with pytest.raises(ValueError, match="of 2 classes and a confusion matrix of 3; count both by the same label map"):
        shot_accuracy(np.zeros((3, 3)), np.array([1, 2]))
