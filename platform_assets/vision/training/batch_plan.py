"""Which images stand in which batch of an epoch, and which of them each process takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.recipes.train_options import DoesNotTrain, TrainRecipe


class TooFewImages(DoesNotTrain):
    """A part has fewer images than one optimizer step has batches."""


def global_batches(order_n: NDArray[np.int64], recipe: TrainRecipe, *, steps: int) -> list[NDArray[np.int64]]:
    """[2, size] each: the rows, and how often each has come before in this epoch. Raises TooFewImages.

    `order_n` in `steps` parts, each in `recipe.accumulate`; sizes of parts of one whole differ by one at most.
    """
    if len(order_n) // steps < recipe.accumulate * recipe.devices:
        raise TooFewImages(
            f"{len(order_n)} images do not part into accumulate {recipe.accumulate} x devices {recipe.devices} batches "
            "of one image or more; lower accumulate or devices"
        )
    drawn = np.stack([order_n, _times_before(order_n)])
    parted = (np.array_split(step, recipe.accumulate, axis=1) for step in np.array_split(drawn, steps, axis=1))
    return [batch for step in parted for batch in step]


def _times_before(order_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """At each place, how often its row stands at earlier places: a row drawn twice is to be augmented in two ways."""
    by_row = np.argsort(order_n, kind="stable")
    rows = order_n[by_row]
    before = np.empty_like(order_n)
    before[by_row] = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return before


def share_of_rank(size: int, rank: int, devices: int) -> NDArray[np.int64]:
    """Places in a batch of `size` that a rank takes: pairs of mirrored places together, as `mix` pairs them."""
    first = np.arange((size + 1) // 2)
    pairs = np.stack([first, size - 1 - first], axis=1).ravel()[:size]
    return np.sort(np.array_split(pairs, devices)[rank])
