"""The learning-rate range test: a short training at growing rates, which shows where the loss falls and where it breaks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import polars as pl

from platform_assets.vision.machine.devices import Device
from platform_assets.vision.machine.out_of_memory import out_of_memory_advice
from platform_assets.vision.machine.precision import require_precision
from platform_assets.vision.networks.models import Classifier, place
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import Batch, LabelledImages, batches_per_epoch, epoch_batches
from platform_assets.vision.training.execution import prepared
from platform_assets.vision.training.losses import make_loss
from platform_assets.vision.training.optimization import freeze, trainable
from platform_assets.vision.training.step import NonFinite, Teacher, TrainingStep, step_seed

LOWEST_RATE, HIGHEST_RATE = 1e-6, 1.0
_SMOOTHING = 0.9
_DIVERGED = 4.0
# Share of the steps at the start whose slope says more of the smoothing than of the rate.
_UNSETTLED = 0.1


class NoLearningRate(ValueError):
    """A range test in which no rate made the loss fall, or which had no loss from the start."""


def lr_range_test(
    classifier: Classifier,
    part: LabelledImages,
    recipe: TrainRecipe,
    *,
    seed: int,
    device: Device,
    steps: int = 100,
    teacher: Teacher | None = None,
) -> pl.DataFrame:
    """One row a step: step, learning_rate, loss, smoothed_loss (Smith 2017, arXiv 1506.01186). `classifier` is not trained.

    The base rate grows from LOWEST_RATE to HIGHEST_RATE by one factor a step; all else is as in the last epoch of the
    recipe, in one process. The smoothed loss is the exponential mean with decay 0.9, corrected for its start; the test
    ends early where it is four times its lowest, or where loss or gradients are not finite. Raises NoLearningRate where
    they are not in the first step.
    """
    require_precision(recipe, device)
    alone = recipe.model_copy(update={"devices": 1, "accumulate": recipe.accumulate * recipe.devices})
    trained = place(copy.deepcopy(classifier), device)
    rates = np.geomspace(LOWEST_RATE, HIGHEST_RATE, steps)
    rows: list[dict[str, float]] = []
    mean, lowest = 0.0, float("inf")
    image_size_px = classifier.preprocessing.image_size_px
    with out_of_memory_advice(alone, image_size_px, device), prepared(trained, alone):
        losses = _losses(
            _step_of(trained, part, alone, device, teacher), _steps(part, alone, seed, trained), rates, seed
        )
        for step, loss in enumerate(losses):
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
            smoothed = mean / (1 - _SMOOTHING ** (step + 1))
            lowest = min(lowest, smoothed)
            if smoothed > _DIVERGED * lowest:
                break
            rows.append({"step": step, "learning_rate": float(rates[step]), "loss": loss, "smoothed_loss": smoothed})
    if not rows:
        raise NoLearningRate("the first step of the range test, at the lowest rate, is not finite; look at the weights")
    return pl.DataFrame(rows)


def suggested_rate(tested: pl.DataFrame) -> float:
    """The rate at which the smoothed loss of a range test falls steepest over the log of the rate, before its lowest.

    Past the lowest a loss that breaks may fall steeper still, from higher up. Raises NoLearningRate.
    """
    settled = tested.slice(int(tested.height * _UNSETTLED))
    lowest = settled["smoothed_loss"].arg_min() or 0
    if lowest == 0:
        raise NoLearningRate(
            f"the loss fell at no rate of the {tested.height} steps of the range test; look at labels and augmentation, or "
            "take more steps"
        )
    falling = settled.head(lowest + 1)
    slope = np.gradient(falling["smoothed_loss"].to_numpy(), np.log(falling["learning_rate"].to_numpy()))
    return float(falling["learning_rate"][int(slope[:-1].argmin())])


def _step_of(
    trained: Classifier, part: LabelledImages, recipe: TrainRecipe, device: Device, teacher: Teacher | None
) -> TrainingStep:
    trained.train()
    freeze(trained, recipe, recipe.epochs, trainable(trained))
    counts_k = np.bincount(part.labels_n, minlength=trained.num_classes)
    return TrainingStep(trained, recipe, make_loss(recipe, counts_k, device=device), device=device, teacher=teacher)


def _steps(part: LabelledImages, recipe: TrainRecipe, seed: int, trained: Classifier) -> Iterator[list[Batch]]:
    """The batches of each step, epoch after epoch without an end."""
    for epoch in count(1):
        batches = epoch_batches(part, recipe=recipe, seed=seed, epoch=epoch, num_classes=trained.num_classes)
        for _ in range(batches_per_epoch(len(part), recipe)):
            yield list(islice(batches, recipe.accumulate))


def _losses(
    step_of: TrainingStep, steps: Iterator[list[Batch]], rates: np.ndarray[tuple[int], np.dtype[np.float64]], seed: int
) -> Iterator[float]:
    """The loss before each step, until it or a gradient is not finite."""
    for step, rate in enumerate(rates):
        try:
            yield step_of.take(next(steps), rate=float(rate), seed=step_seed(seed, 1, step)).loss
        except NonFinite:
            return
