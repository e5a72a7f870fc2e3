"""Temperature, sets and abstention against independent computations, and stated results on degenerate input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import log_loss

from platform_assets.vision.evaluation.calibration import (
    answer_from,
    calibrate,
    fit_temperature,
    softmax,
)
from platform_assets.vision.evaluation.calibration_report import report
from platform_assets.vision.evaluation.probability_scores import calibration_error
from platform_assets.vision.recipes.uncertainty_options import UncertaintyOptions


def overconfident(images: int, seed: int, *, by: float = 3.0, classes: int = 5) -> tuple[Any, Any]:
    """Logits `by` times too large for the truths drawn of them."""
    random = np.random.default_rng(seed)
    logits_nk = random.normal(0, 1.5, (images, classes))
    truth_n = (random.random((images, 1)) > softmax(logits_nk).cumsum(axis=1)).sum(axis=1)
    return (by * logits_nk).astype(np.float32), np.minimum(truth_n, classes - 1)


def test_temperature__is_what_the_logits_were_multiplied_by() -> None:
    assert fit_temperature(*overconfident(20_000, 0)) == pytest.approx(3.0, rel=0.03)
    assert fit_temperature(*overconfident(20_000, 0, by=0.5)) == pytest.approx(0.5, rel=0.03)


def test_temperature__no_other_has_a_lower_loss() -> None:
    logits_nk, truth_n = overconfident(300, 1)
    found = fit_temperature(logits_nk, truth_n)
    losses = {t: log_loss(truth_n, softmax(logits_nk / t), labels=range(5)) for t in np.linspace(0.5, 6, 56)}
    assert log_loss(truth_n, softmax(logits_nk / found), labels=range(5)) <= min(losses.values()) + 1e-6


def test_temperature__where_all_is_right_nothing_is_fitted() -> None:
    """It was 0.05, and a calibrated model that val found no fault with was told to be certain of everything."""
    logits_nk, truth_n = overconfident(4000, 4, by=1.0)
    right_n = logits_nk.argmax(axis=1) == truth_n
    calibration = calibrate(logits_nk[right_n][:20], truth_n[right_n][:20], UncertaintyOptions())
    assert calibration.temperature == 1.0
    found = report(calibration, *overconfident(4000, 5, by=1.0))
    assert found.loss == found.loss_before
    assert fit_temperature(np.eye(4), np.arange(4)) == 1.0


def test_calibrate__few_images_give_sets_of_all_labels_and_no_answers() -> None:
    logits_nk, truth_n = np.array([[0.1, 0.0], [0.0, 0.1], [0.2, 0.0]]), np.array([1, 0, 1])
    calibration = calibrate(logits_nk, truth_n, UncertaintyOptions())
    assert (calibration.set_threshold, calibration.answer_from) == (None, None)
    found = report(calibration, logits_nk, truth_n)
    assert (found.covered, found.mean_set_size) == (1.0, 2.0)
    assert (found.answered, found.answered_right) == (0.0, None)


def test_answer_from__by_hand() -> None:
    # Of coins three of three or two of three come up in 4 of 8 throws of three, three of four in 5 of 16, three of five in 8.
    confidence_n, right_n = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, True, False])
    assert answer_from(confidence_n, right_n, 0.5, level=0.5) == 0.5
    assert answer_from(confidence_n, right_n, 0.5, level=0.6) == 0.6
    assert answer_from(confidence_n, right_n, 0.5, level=0.7) is None
    # Equals are answered together.
    assert answer_from(np.array([0.9, 0.8, 0.8, 0.8, 0.8]), right_n, 0.5, level=0.5) == 0.8
    assert answer_from(np.array([0.9, 0.8, 0.8, 0.8, 0.8]), right_n, 0.5, level=0.6) is None
    # 77 images are the fewest of which one may be wrong.
    assert answer_from(np.linspace(1, 0.6, 77), np.arange(77) != 3, 0.95, level=0.9) == 0.6
    assert answer_from(np.linspace(1, 0.6, 76), np.ones(76, dtype=bool), 0.95, level=0.9) is None
    assert answer_from(np.linspace(1, 0.6, 77), np.arange(77) > 2, 0.95, level=0.9) is None


@given(
    st.lists(st.tuples(st.sampled_from([0.3, 0.5, 0.7, 0.9]), st.booleans()), min_size=1, max_size=60),
    st.floats(0.05, 0.95),
    st.floats(0.5, 0.95),
)
@settings(max_examples=80)
def test_answer_from__every_bound_down_to_it_holds(
    pairs: list[tuple[float, bool]], precision: float, level: float
) -> None:
    confidence_n, right_n = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])

    def bound(right: int, images: int) -> float:
        return float(binomtest(right, images, alternative="greater").proportion_ci(level, method="exact").low)

    wanted = None
    for threshold in sorted(set(confidence_n), reverse=True):
        answered_n = confidence_n >= threshold
        if bound(answered_n.sum() - 1, answered_n.sum()) < precision:
            continue
        if bound(right_n[answered_n].sum(), answered_n.sum()) < precision:
            break
        wanted = threshold
    assert answer_from(confidence_n, right_n, precision, level=level) == wanted


def test_answer_from__the_precision_holds_as_often_as_stated() -> None:
    """It was the lowest threshold at which val had it, and 0.95 asked for held in 0.38 of the draws of 296 images."""
    random = np.random.default_rng(0)
    for scale, images in ((2.0, 296), (3.0, 296), (3.0, 1000)):
        everyone_n = np.sort(1 / (1 + np.exp(-np.abs(random.normal(0, scale, 100_000)))))[::-1]
        share_right_n = everyone_n.cumsum() / np.arange(1, len(everyone_n) + 1)
        held = 0
        for _ in range(500):
            confidence_n = 1 / (1 + np.exp(-np.abs(random.normal(0, scale, images))))
            found = answer_from(confidence_n, random.random(images) < confidence_n, 0.95, level=0.9)
            answered = 0 if found is None else int((everyone_n >= found).sum())
            held += answered == 0 or share_right_n[answered - 1] >= 0.95
        assert held / 500 >= 0.9


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=80)
def test_error__is_the_mean_gap_of_its_bins(pairs: list[tuple[float, bool]]) -> None:
    confidence_n, right_n = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    total = 0.0
    for number in range(15):
        inside = (confidence_n * 15 >= number) & ((confidence_n * 15 < number + 1) | (number == 14))
        if inside.any():
            total += inside.sum() * abs(confidence_n[inside].mean() - right_n[inside].mean())
    assert calibration_error(confidence_n, right_n) == pytest.approx(total / len(pairs))
    assert 0 <= calibration_error(confidence_n, right_n, adaptive=True) <= 1


def test_error__adaptive_bins_have_as_many_images_each() -> None:
    # All confidences in one bin of equal width, where errors of both signs cancel out.
    confidence_n = np.concatenate([np.full(75, 0.94), np.full(75, 0.99)])
    right_n = np.concatenate([np.ones(75, bool), np.arange(75) < 66])
    assert calibration_error(confidence_n, right_n) < 0.03
    assert calibration_error(confidence_n, right_n, adaptive=True) > 0.05
