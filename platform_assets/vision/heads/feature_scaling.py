"""Frozen features brought to one scale, so that a head can be fitted on them. Numpy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.recipes.probe_options import FeatureChoice

Floats = NDArray[np.float64]
Features32 = NDArray[np.float32]
LabelledFeatures = tuple[Features32, NDArray[np.int64]]

# Parts of the vectors that may be read, by name, and where they lie.
Slices = Mapping[FeatureChoice, slice]
WHOLE: Slices = {"whole": slice(None)}

# Of the median over features. 2026-11, elpv at 224 px, stages, 5 splits, macro-F1: none 0.8434, 0.3 0.8474, 1.0 0.8440.
_STD_FLOOR = 0.3


class ProbeError(ValueError):
    """Features and labels that no head can be fitted on."""


class Head(NamedTuple):
    """logits_bk = features_bd @ weight_kd.T + bias_k."""

    weight_kd: Floats
    bias_k: Floats

    def logits(self, features_nd: Features32) -> Floats:
        return np.asarray(features_nd @ self.weight_kd.T + self.bias_k)

    def of_all_classes(self, present: NDArray[np.int64], num_classes: int, train_images: int) -> Head:
        """These rows at the indices `present`; the other classes log(n + 1) below their mean, so never predicted."""
        whole = Head(
            np.tile(self.weight_kd.mean(axis=0), (num_classes, 1)),
            np.full(num_classes, self.bias_k.mean() - np.log(train_images + 1)),
        )
        whole.weight_kd[present], whole.bias_k[present] = self.weight_kd, self.bias_k
        return whole


class Scaler(NamedTuple):
    """(features - mean_d) / std_d, at unit length where `unit`."""

    mean_d: Floats
    std_d: Floats
    unit: bool

    @classmethod
    def of(cls, train_nd: Features32, scaling: Literal["standardize", "l2", "none"], *, unit: bool = False) -> Scaler:
        if scaling == "standardize":
            return cls(*_standardisation(train_nd), unit)
        width = train_nd.shape[1]
        return cls(np.zeros(width), np.ones(width), unit or scaling == "l2")

    def scaled(self, features_nd: Features32) -> Features32:
        scaled_nd = ((features_nd - self.mean_d) / self.std_d).astype(np.float32)
        if self.unit:
            scaled_nd /= np.maximum(np.linalg.norm(scaled_nd, axis=1, keepdims=True), 1e-12)
        return scaled_nd

    def folded(self, head: Head) -> Head:
        """The same logits from raw features; vectors of unit length have to be made first."""
        if self.unit:
            return head
        weight_kd = head.weight_kd / self.std_d
        return Head(weight_kd, head.bias_k - weight_kd @ self.mean_d)

    def inputs(self, features_nd: Features32) -> Features32:
        """What a folded head takes."""
        return self.scaled(features_nd) if self.unit else features_nd


def _standardisation(features_nd: Features32) -> tuple[Floats, Floats]:
    """Mean and scale of each feature: its standard deviation, with a floor for features that hardly vary.

    Without the floor one stray activation of a nearly constant feature outweighs all others (docs/log.md).
    """
    mean_d = features_nd.mean(axis=0, dtype=np.float64)
    std_d = features_nd.std(axis=0, dtype=np.float64)
    varying = std_d[std_d > 1e-12]
    floor = _STD_FLOOR * float(np.median(varying)) if varying.size else 1.0
    return mean_d, np.maximum(std_d, floor)


def rank(val_loss: float, val_metric: float, select_by: Literal["loss", "metric"]) -> tuple[float, float]:
    """Higher is better. The loss is a proper score: on a small val part it chooses more steadily than a count of hits."""
    return (val_metric, -val_loss) if select_by == "metric" else (-val_loss, val_metric)


def require_usable(train_xy: LabelledFeatures, val_xy: LabelledFeatures, num_classes: int) -> None:
    """Raises ProbeError unless every row is finite and labelled, and train has two classes or more."""
    for part, xy in (("train", train_xy), ("val", val_xy)):
        _require_part(part, xy, num_classes, width=train_xy[0].shape[1])


def _require_part(part: str, xy: LabelledFeatures, num_classes: int, *, width: int) -> None:
    features_nd, labels_n = xy
    if features_nd.ndim != 2 or features_nd.shape != (len(labels_n), width) or len(labels_n) == 0:
        raise ProbeError(
            f"{part}: features {features_nd.shape} and {len(labels_n)} labels; "
            f"one row of {width} features is needed per label"
        )
    broken = np.flatnonzero(~np.isfinite(features_nd).all(axis=1))
    if broken.size:
        raise ProbeError(
            f"{part}: {broken.size} rows hold NaN or infinity, the first is row {broken[0]}; embed them again"
        )
    if labels_n.min() < 0 or labels_n.max() >= num_classes:
        raise ProbeError(
            f"{part}: labels run from {labels_n.min()} to {labels_n.max()}, classes from 0 to {num_classes - 1}"
        )
    if part == "train" and len(np.unique(labels_n)) < 2:
        raise ProbeError(f"train: all {len(labels_n)} images are of class {labels_n[0]}; two classes are needed to fit")
