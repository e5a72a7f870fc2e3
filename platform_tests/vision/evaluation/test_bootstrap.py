"""Resamples against counts of repeated images, and intervals against formulas."""

from __future__ import annotations

import numpy as np
import pytest

from platform_assets.vision.evaluation import bootstrap
from platform_assets.vision.evaluation.bootstrap import (
    BOOTSTRAP_DRAWS,
    error_interval,
    interval_where_defined,
    percentile_interval,
    resampled_counts,
    sums_by_unit,
    weight_blocks,
)
from platform_assets.vision.evaluation.scores import EvaluationError, count, top1


def weights_of(units: int, seed: int = 0) -> bootstrap.Weights:
    return np.concatenate(list(weight_blocks(units, seed=seed)), axis=1)


def test_weight_blocks__every_draw_has_as_many_units_as_there_are() -> None:
    weights_ud = weights_of(30)
    assert weights_ud.shape == (30, BOOTSTRAP_DRAWS)
    assert (weights_ud.sum(axis=0) == 30).all()
    assert weights_ud.var() == pytest.approx(29 / 30, abs=0.03), "a multinomial's"


def test_weight_blocks__do_not_depend_on_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights_of(30)
    monkeypatch.setattr(bootstrap, "_BLOCK_VALUES", 30 * 7)
    blocks = list(weight_blocks(30, seed=0))
    assert {block.shape[1] for block in blocks} == {7, BOOTSTRAP_DRAWS % 7}
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


@pytest.mark.parametrize("grouped", [False, True])
def test_resampled_counts__are_the_counts_of_the_repeated_images(grouped: bool) -> None:
    generator = np.random.default_rng(2)
    truth_n, prediction_n = generator.integers(4, size=30), generator.integers(4, size=30)
    unit_n = generator.permutation(np.arange(30) // 3) if grouped else np.arange(30)
    weights_ud = weights_of(len(set(unit_n)), seed=7)
    drawn = resampled_counts(truth_n, prediction_n, unit_n, 4, weights_ud)
    for draw in (0, 999):
        times_n = weights_ud[unit_n, draw].astype(int)
        again = count(truth_n.repeat(times_n), prediction_n.repeat(times_n), 4)
        for of_all, of_one in zip(drawn, again, strict=True):
            np.testing.assert_array_equal(of_all[draw], of_one)


def test_sums_by_unit__by_hand() -> None:
    values_nm = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]])
    np.testing.assert_array_equal(sums_by_unit(values_nm, np.array([1, 0, 1]), 2), [[2, 20], [5, 50]])


def _interval(prediction_n: np.ndarray, unit_n: np.ndarray, seed: int = 0) -> tuple[float, float]:
    truth_n = np.zeros(len(prediction_n), dtype=np.int64)
    blocks = weight_blocks(int(unit_n.max()) + 1, seed=seed)
    return percentile_interval(
        np.concatenate([top1(resampled_counts(truth_n, prediction_n, unit_n, 2, block)) for block in blocks])
    )


def test_bootstrap__interval_is_near_the_binomial_one_and_follows_from_the_seed() -> None:
    prediction_n, unit_n = (np.arange(400) % 4 == 0).astype(np.int64), np.arange(400)
    intervals = [_interval(prediction_n, unit_n, seed) for seed in (0, 0, 1)]
    assert intervals[0] == intervals[1] != intervals[2]
    half_width = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert intervals[0] == pytest.approx((0.75 - half_width, 0.75 + half_width), abs=0.008)


def test_bootstrap__ten_copies_of_an_image_are_worth_one() -> None:
    """Drawn one by one, the copies would make the interval three times too narrow."""
    wrong_n = (np.arange(100) % 4 == 0).astype(np.int64)
    alone = _interval(wrong_n, np.arange(100))
    copied = _interval(wrong_n.repeat(10), np.arange(100).repeat(10))
    assert copied == pytest.approx(alone, abs=1e-9)
    as_if_independent = _interval(wrong_n.repeat(10), np.arange(1000))
    assert np.diff(as_if_independent) < np.diff(copied) / 2.5


def test_percentile_interval__refuses_a_draw_that_is_no_number() -> None:
    with pytest.raises(EvaluationError, match="too small"):
        percentile_interval(np.array([0.5, np.nan]))
    assert interval_where_defined(np.array([0.5, np.nan])) is None
    assert interval_where_defined(np.array([0.5, 0.5])) == (0.5, 0.5)


def test_error_interval__is_reflected_holds_the_error_and_stays_between_none_and_all() -> None:
    draws = np.linspace(0.1, 0.9, 1001)
    assert error_interval(draws, 0.5) == pytest.approx((0.12, 0.88))
    assert error_interval(draws, 0.6) == pytest.approx((0.32, 1.0)), "three images, one of them right, at 0.9"
    assert error_interval(draws, 0.3) == pytest.approx((0.0, 0.48))
    assert error_interval(draws, 0.05) == (0.0, 0.05), "all draws are larger: it holds the error itself"
    assert error_interval(np.append(draws, np.nan), 0.5) is None
