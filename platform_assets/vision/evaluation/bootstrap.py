"""The bootstrap over images, or over groups of them: weights, scores under them, percentile intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.evaluation.metrics import Interval
from platform_assets.vision.evaluation.scores import Counts, EvaluationError, Floats

BOOTSTRAP_DRAWS = 1000
Weights = NDArray[np.float32]
_BLOCK_VALUES = 1 << 25  # 128 MB of float32


def weight_blocks(units: int, *, seed: int) -> Iterator[Weights]:
    """How often each unit is drawn under BOOTSTRAP_DRAWS resamples with replacement, in blocks of [units, draws].

    A unit is an image or a group of images that are not independent, drawn whole (Davison and Hinkley 1997, section 3.8).
    The draws follow from the seed, whatever the size of the blocks.
    """
    generator = np.random.default_rng(seed)
    most = max(1, _BLOCK_VALUES // units)
    for start in range(0, BOOTSTRAP_DRAWS, most):
        weights_ud = np.empty((units, min(most, BOOTSTRAP_DRAWS - start)), dtype=np.float32)
        for draw in range(weights_ud.shape[1]):
            weights_ud[:, draw] = np.bincount(generator.integers(units, size=units), minlength=units)
        yield weights_ud


def resampled(figures_of: Callable[[Weights], dict[str, Floats]], units: int, *, seed: int) -> dict[str, Floats]:
    """By name, the draws of each figure; `figures_of` gets a block of the weights."""
    from threadpoolctl import threadpool_limits

    drawn: dict[str, list[Floats]] = defaultdict(list)
    # One thread: the products are small, and BLAS's own threads waited on each other for 20 s where others had the cores.
    with threadpool_limits(1, user_api="blas"):
        for weights_ud in weight_blocks(units, seed=seed):
            for name, values_d in figures_of(weights_ud).items():
                drawn[name].append(values_d)
    return {name: np.concatenate(blocks) for name, blocks in drawn.items()}


def resampled_counts(
    truth_n: NDArray[Any], prediction_n: NDArray[Any], unit_n: NDArray[Any], classes: int, weights_ud: Weights
) -> Counts:
    """`scores.count` under each draw: arrays of [draws, classes]. `unit_n` is the unit of each image."""
    right_n = truth_n == prediction_n
    return Counts(
        sums_by_class(truth_n[right_n], unit_n[right_n], classes, weights_ud),
        sums_by_class(truth_n, unit_n, classes, weights_ud),
        sums_by_class(prediction_n, unit_n, classes, weights_ud),
    )


def sums_by_class(
    class_n: NDArray[Any],
    unit_n: NDArray[Any],
    classes: int,
    weights_ud: Weights,
    values_n: NDArray[np.float64] | None = None,
) -> Floats:
    """[draws, classes]: the weights of the images of each class, or what these values sum to under them."""
    from scipy.sparse import csr_array

    # Whole numbers below 2**24 are exact in float32; their ratios are wanted in double precision.
    values_n = np.ones(len(class_n)) if values_n is None else values_n
    images_ku = csr_array((values_n.astype(weights_ud.dtype), (class_n, unit_n)), shape=(classes, len(weights_ud)))
    return np.asarray((images_ku @ weights_ud).T, dtype=np.float64)


def sums_by_unit(values_nm: Floats, unit_n: NDArray[Any], units: int) -> NDArray[np.float32]:
    """[units, m]: the sum of each column over the images of each unit; its transpose times the weights are sums a draw."""
    sums_um = np.zeros((units, values_nm.shape[1]))
    np.add.at(sums_um, unit_n, values_nm)
    return sums_um.astype(np.float32)


def percentile_interval(draws: Floats) -> Interval:
    """The middle 95 % of bootstrap draws; EvaluationError when one is not a number."""
    if not np.isfinite(draws).all():
        raise EvaluationError(
            "a bootstrap resample holds none of a trial's images; the part is too small for an interval"
        )
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def interval_where_defined(draws: Floats) -> Interval | None:
    """The same; None when the score is not defined under some draw."""
    return percentile_interval(draws) if np.isfinite(draws).all() else None


def error_interval(draws: Floats, error: float) -> Interval | None:
    """Of a calibration error: the draws reflected about it (basic), because resampling adds to it what sampling has added.

    Where that is more than their spread, the whole would lie below the error: it reaches up to it at least.
    """
    if (found := interval_where_defined(draws)) is None:
        return None
    low, high = found
    return min(max(2 * error - high, 0.0), 1.0), min(max(2 * error - low, error), 1.0)
