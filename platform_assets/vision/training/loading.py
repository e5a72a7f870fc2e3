"""How many threads should make training batches here: measured on the machine and the images, not a constant."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from itertools import count

from platform_assets.vision.machine.devices import Device, candidate_threads
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import Batch, LabelledImages, epoch_batches

# Small batches, so that a measurement can end in time; the work an image takes does not depend on it.
_MEASURED_BATCH = 8
_GOOD_ENOUGH = 0.9
_WORTH_MEASURING = 10


def choose_workers(
    part: LabelledImages, recipe: TrainRecipe, *, device: Device = "cpu", seconds_budget: float = 1.0
) -> tuple[int, dict[int, float]]:
    """The fewest workers for `epoch_batches` that come within 10 % of the fastest, and images per second by workers.

    On an accelerator they are one or more: it computes while they load, as a CPU's cores, which are the same, do not.
    Where loading the whole training with the fewest takes less than ten times the budget, that is the answer and alone
    in the rates. The budget is not for what the first use of an augmentation takes, such as an import. The number changes
    no pixel of any batch.
    """
    candidates = [*([0] if device == "cpu" else []), *candidate_threads()]
    seconds, fewest = seconds_budget / len(candidates), candidates[0]
    rates = {fewest: _images_per_second(part, recipe, fewest, seconds)}
    if recipe.epochs * len(part) / rates[fewest] < _WORTH_MEASURING * seconds_budget:
        return fewest, rates
    for workers in candidates[1:]:
        rates[workers] = _images_per_second(part, recipe, workers, seconds)
    return fewest_fast(rates), rates


def fewest_fast(rates: Mapping[int, float]) -> int:
    """The fewest workers that come within 10 % of the fastest."""
    return min(workers for workers, rate in rates.items() if rate >= _GOOD_ENOUGH * max(rates.values()))


def _images_per_second(part: LabelledImages, recipe: TrainRecipe, workers: int, seconds: float) -> float:
    """Once the threads have begun and given what they made meanwhile."""
    batches = _endless(part, recipe, workers)
    try:
        for _ in range(workers + 1):
            next(batches)
        started, images = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds or images == 0:
            images += len(next(batches).rows)
        return images / elapsed
    finally:
        batches.close()


def _endless(part: LabelledImages, recipe: TrainRecipe, workers: int) -> Generator[Batch, None, None]:
    small = recipe.model_copy(update={"batch_size": _MEASURED_BATCH, "accumulate": 1, "devices": 1})
    num_classes = int(part.labels_n.max()) + 1
    for epoch in count():
        yield from epoch_batches(part, recipe=small, seed=0, epoch=epoch, num_classes=num_classes, workers=workers)
