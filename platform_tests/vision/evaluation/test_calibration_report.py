"""What a calibration is worth on other images, by hand, and its intervals against what new images give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.vision.evaluation.calibration import calibrate, softmax
from platform_assets.vision.evaluation.calibration_report import CalibrationReport, report
from platform_assets.vision.evaluation.probability_scores import calibration_error
from platform_assets.vision.recipes.uncertainty_options import UncertaintyOptions
from platform_tests.vision.evaluation.test_calibration import overconfident

CALIBRATION = calibrate(*overconfident(2000, 1), UncertaintyOptions(precision=0.6))
NAMES = [name.removesuffix("_interval") for name in CalibrationReport.model_fields if name.endswith("_interval")]


def test_report__calibration_lowers_error_and_loss_on_other_images() -> None:
    calibration = calibrate(*overconfident(2000, 2), UncertaintyOptions(precision=0.8))
    found = report(calibration, *overconfident(4000, 3))
    assert found.ece < found.ece_before / 3
    assert found.adaptive_ece < found.adaptive_ece_before / 3
    assert found.loss < found.loss_before
    assert found.covered_low <= found.covered <= found.covered_high
    assert 1 < found.mean_set_size < 5
    assert found.answered_right is not None
    assert found.answered_right >= 0.8
    assert found.answered > 0.01


def test_report__figures_by_hand() -> None:
    logits_nk = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]]))
    calibration = calibrate(*overconfident(50, 0, classes=2), UncertaintyOptions()).model_copy(
        update={"temperature": 1.0, "set_threshold": 0.65, "answer_from": 0.75, "coverage": 0.9}
    )
    found = report(calibration, logits_nk, np.array([0, 1, 1, 1]))
    # Sets: {0}, {0, 1}, {1}, {0}: the last one misses.
    assert (found.covered, found.mean_set_size) == (0.75, 1.25)
    assert (found.answered, found.answered_right) == (0.5, 1.0)
    assert found.loss == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.3]).mean())


def test_report__errors_are_those_of_their_bins_and_temperature() -> None:
    logits_nk, truth_n = overconfident(300, 7)
    found, right_n = report(CALIBRATION, logits_nk, truth_n), logits_nk.argmax(axis=1) == truth_n
    for suffix, temperature in (("_before", 1.0), ("", CALIBRATION.temperature)):
        confidence_n = softmax(logits_nk / temperature).max(axis=1)
        for name, adaptive in (("ece", False), ("adaptive_ece", True)):
            wanted = calibration_error(confidence_n, right_n, adaptive=adaptive)
            assert getattr(found, f"{name}{suffix}") == pytest.approx(wanted), f"{name}{suffix}"
    assert len({found.ece, found.ece_before, found.adaptive_ece, found.adaptive_ece_before}) == 4


def test_intervals__are_as_wide_as_figures_spread_over_new_images() -> None:
    def found(seed: int, unit_n: Any = None) -> CalibrationReport:
        return report(CALIBRATION, *overconfident(400, seed), unit_n=unit_n)

    intervals = [found(seed, np.arange(400)) for seed in range(10, 18)]
    others = [found(seed) for seed in range(20, 320)]
    for name in NAMES:
        spread = np.std([getattr(each, name) for each in others])
        width = np.mean([np.diff(getattr(each, f"{name}_interval")) for each in intervals])
        assert width / 2 / 1.96 == pytest.approx(spread, rel=0.35), name


def test_intervals__with_groups_are_those_of_the_groups() -> None:
    logits_nk, truth_n = overconfident(200, 4)
    alone = report(CALIBRATION, logits_nk, truth_n, unit_n=np.arange(200))
    copied = report(CALIBRATION, logits_nk.repeat(5, axis=0), truth_n.repeat(5), unit_n=np.arange(200).repeat(5))
    for name in ("loss", "ece", "covered", "mean_set_size", "answered", "answered_right"):
        wanted = getattr(alone, f"{name}_interval")
        assert getattr(copied, f"{name}_interval") == pytest.approx(wanted, abs=1e-4), name


def test_intervals__there_are_none_without_units_and_of_what_a_resample_has_none_of() -> None:
    logits_nk, truth_n = overconfident(50, 5)
    assert report(CALIBRATION, logits_nk, truth_n).ece_interval is None
    silent = CALIBRATION.model_copy(update={"answer_from": None})
    found = report(silent, logits_nk, truth_n, unit_n=np.arange(50))
    assert (found.answered_right, found.answered_right_interval, found.answered_interval) == (None, None, (0, 0))


@given(st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=40)
def test_intervals__hold_the_figure_or_say_nothing(images: int, seed: int) -> None:
    found = report(CALIBRATION, *overconfident(images, seed), unit_n=np.arange(images))
    for name in ("loss", "covered", "mean_set_size", "answered"):
        low, high = getattr(found, f"{name}_interval")
        assert low - 1e-6 <= getattr(found, name) <= high + 1e-6, name
    assert found.adaptive_ece_interval is not None
    assert 0 <= found.adaptive_ece_interval[0] <= found.adaptive_ece_interval[1]
