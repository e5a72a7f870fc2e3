"""The sign test and Holm's correction against scipy and by hand, and both on models that are equally good."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from platform_assets.vision.evaluation.significance import holm, sign_test
from platform_tests.vision.simulated_models import Setting, declared_different, leads, p_values

REPETITIONS, ALPHA = 300, 0.05


@given(st.integers(0, 60), st.integers(0, 60))
def test_sign_test__is_the_two_sided_binomial_test(only_a: int, only_b: int) -> None:
    wanted = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert sign_test(only_a, only_b) == pytest.approx(wanted)


def test_sign_test__of_arrays() -> None:
    assert sign_test(np.array([5, 0]), np.array([0, 0])).tolist() == [2 * 0.5**5, 1.0]


@given(st.lists(st.floats(0, 1), min_size=0, max_size=8))
def test_holm__never_smaller_and_in_the_same_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(1 >= after >= before for before, after in zip(p_values, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i, p in enumerate(p_values) for j, q in enumerate(p_values) if p < q)


def test_holm__by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def most(repetitions: int) -> float:
    """The share of wrong verdicts that a test of level ALPHA exceeds in 1 of 1,000."""
    return float(binom.ppf(0.999, repetitions, ALPHA)) / repetitions


@pytest.mark.parametrize("shared", [0.0, 0.5])
@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_models__are_declared_different_in_at_most_alpha(seeds: int, shared: float) -> None:
    setting = Setting(images=656, error=0.13, seeds=seeds, shared=shared)
    p = p_values(leads(setting, variants=2, repetitions=REPETITIONS, seed=0))
    assert (p < ALPHA).mean() <= most(REPETITIONS)


def test_equal_models__of_several_variants_stay_within_alpha_together() -> None:
    setting = Setting(images=656, error=0.13, seeds=1, shared=0.5)
    p = p_values(leads(setting, variants=6, repetitions=REPETITIONS, seed=1))
    assert declared_different(p, ALPHA).mean() <= most(REPETITIONS)
    assert (p < ALPHA).any(axis=1).mean() > most(REPETITIONS), "five tests without Holm's correction"


def test_better_models__are_found() -> None:
    setting = Setting(images=2485, error=0.22, seeds=3, shared=0.5, better=0.04)
    p = p_values(leads(setting, variants=2, repetitions=50, seed=2))
    assert (p < ALPHA).mean() > 0.9


def test_rows_of_seeds__as_images_would_be_too_sure() -> None:
    """What the sign test over images avoids: three seeds of one network err on the same images."""
    setting = Setting(images=656, error=0.13, seeds=3, shared=0.3, of_variant=0.5)
    found = leads(setting, variants=2, repetitions=REPETITIONS, seed=3)
    assert (p_values(found) < ALPHA).mean() <= most(REPETITIONS)
    pooled = sign_test(found.clip(min=0).sum(axis=2), (-found).clip(min=0).sum(axis=2))
    assert (pooled < ALPHA).mean() > most(REPETITIONS)
