"""The Brier score against scikit-learn and by hand. Calibration error is in test_calibration.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from platform_assets.vision.evaluation.calibration import softmax
from platform_assets.vision.evaluation.probability_scores import brier_of_images


@settings(max_examples=40)
@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 1000))
def test_brier__is_that_of_scikit_learn(images: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probabilities_nk, truth_n = (
        softmax(generator.normal(size=(images, classes))),
        generator.integers(classes, size=images),
    )
    wanted = brier_score_loss(truth_n, probabilities_nk, labels=list(range(classes)), scale_by_half=False)
    assert brier_of_images(probabilities_nk, truth_n).mean() == pytest.approx(wanted)


def test_brier__by_hand_at_its_ends() -> None:
    sure_nk = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    assert brier_of_images(sure_nk, np.zeros(3, dtype=int)).tolist() == [0.0, 2.0, 0.5]
