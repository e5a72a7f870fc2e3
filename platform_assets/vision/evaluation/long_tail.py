"""Accuracy on classes with many, some and few train images: what one figure over a long-tailed set hides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.vision.datasets.label_map import LabelMap
    from platform_assets.vision.evaluation.metrics import Metrics

MANY_ABOVE, FEW_BELOW = 100, 20


class ShotAccuracy(BaseModel):
    """Mean accuracy per class, 0 to 1, over classes with more than 100, 20 to 100 and fewer than 20 train images.

    None where no class of the kind has an evaluated image. After Liu et al. 2019 (arXiv 1904.05160).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    many: float | None
    medium: float | None
    few: float | None


def shots_of(metrics: Metrics, records: pl.DataFrame, label_map: LabelMap) -> ShotAccuracy:
    """Of the classes by their images in the train part of `records`."""
    train_n = [label_map.index(label) for label in records.filter(split="train")["label"]]
    return shot_accuracy(np.array(metrics.confusion), np.bincount(train_n, minlength=len(label_map)))


def shot_accuracy(confusion_kk: NDArray[Any], train_images_k: NDArray[Any]) -> ShotAccuracy:
    """From the confusion matrix of an evaluated part, truth in rows, and the train images of the same classes."""
    if len(train_images_k) != len(confusion_kk):
        raise ValueError(
            f"train images are given of {len(train_images_k)} classes and a confusion matrix of {len(confusion_kk)}; "
            "count both by the same label map"
        )
    hits_k, truths_k = confusion_kk.diagonal(), confusion_kk.sum(axis=1)
    many_k, few_k = train_images_k > MANY_ABOVE, train_images_k < FEW_BELOW
    return ShotAccuracy(
        many=_mean_accuracy(hits_k, truths_k, many_k),
        medium=_mean_accuracy(hits_k, truths_k, ~many_k & ~few_k),
        few=_mean_accuracy(hits_k, truths_k, few_k),
    )


def _mean_accuracy(hits_k: NDArray[Any], truths_k: NDArray[Any], chosen_k: NDArray[np.bool_]) -> float | None:
    chosen_k = chosen_k & (truths_k > 0)
    if not chosen_k.any():
        return None
    return float((hits_k[chosen_k] / truths_k[chosen_k]).mean())
