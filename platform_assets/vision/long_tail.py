"""Accuracy on classes with many, some and few train images: what one figure over a long-tailed set hides."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.scores import Counts

MANY_ABOVE, FEW_BELOW = 100, 20


class ShotAccuracy(BaseModel):
    """Mean accuracy per class, 0 to 1, over classes with more than 100, 20 to 100 and fewer than 20 train images.

    None where no class of the kind has an evaluated image. After Liu et al. 2019 (arXiv 1904.05160).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    many: float | None
    medium: float | None
    few: float | None


def shot_accuracy(counts: Counts, train_images_k: NDArray[Any]) -> ShotAccuracy:
    """From the counts of an evaluated part (scores.count) and the train images of the same classes."""
    if len(train_images_k) != len(counts.truths):
        raise ValueError(
            f"train images are given of {len(train_images_k)} classes and counts of {len(counts.truths)}; "
            "count both by the same label map"
        )
    many_k, few_k = train_images_k > MANY_ABOVE, train_images_k < FEW_BELOW
    return ShotAccuracy(
        many=_mean_accuracy(counts, many_k),
        medium=_mean_accuracy(counts, ~many_k & ~few_k),
        few=_mean_accuracy(counts, few_k),
    )


def _mean_accuracy(counts: Counts, chosen_k: NDArray[np.bool_]) -> float | None:
    chosen_k = chosen_k & (counts.truths > 0)
    if not chosen_k.any():
        return None
    return float((counts.hits[chosen_k] / counts.truths[chosen_k]).mean())
