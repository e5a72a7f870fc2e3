"""Whether chance explains a difference: the exact sign test on counts, and p-values after their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sign_test(only_a: NDArray[Any] | int, only_b: NDArray[Any] | int) -> NDArray[np.float64]:
    """Two-sided p-values that a and b are equally likely to be the better one, of counts of either (any shape).

    On the images that one of two classifiers got right and the other wrong it is the exact test of McNemar (1947).
    """
    from scipy.stats import binom

    fewer, differing = np.minimum(only_a, only_b), np.add(only_a, only_b)
    return np.asarray(np.minimum(2 * binom.cdf(fewer, differing, 0.5), 1.0))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979): the smallest times m, the next times m - 1, never falling."""
    order = np.argsort(p_values)
    stepped = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(value) for value in adjusted]
