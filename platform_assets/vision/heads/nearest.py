"""Heads without a solver: nearest class mean and k nearest neighbours, what is open in them chosen on the val part."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl
import torch
from torch import nn

from platform_assets.vision.evaluation.scores import cross_entropy, score
from platform_assets.vision.heads.feature_scaling import (
    WHOLE,
    Head,
    LabelledFeatures,
    ProbeError,
    Scaler,
    Slices,
    rank,
    require_usable,
)
from platform_assets.vision.heads.modules import NeighbourHead, UnitLinear, UnitVectors, in_batches, linear_layer
from platform_assets.vision.recipes.probe_options import KnnRecipe, NearestMeanRecipe

if TYPE_CHECKING:
    from platform_assets.vision.recipes.resolving import MetricName

# Bounds of ln(scale), in units of 1 / mean squared distance to the own class mean: uniform to certain.
_LOG_SCALES = (-10.0, 15.0)


@dataclass(frozen=True)
class FittedHead:
    """A head for raw features_bd. `candidates` has one row per choice tried on val, `chosen` marks the one taken."""

    head: nn.Module
    candidates: pl.DataFrame
    summary: dict[str, float | int | bool]


@dataclass(frozen=True)
class _Tried:
    """One choice: what its row says, and the head it gives."""

    row: dict[str, float | int | str]
    head: nn.Module

    def rank(self, select_by: Literal["loss", "metric"]) -> tuple[float, float]:
        return rank(float(self.row["val_loss"]), float(self.row["val_metric"]), select_by)


def fit_nearest_mean(
    train_xy: LabelledFeatures,
    val_xy: LabelledFeatures,
    *,
    num_classes: int,
    recipe: NearestMeanRecipe,
    metric: MetricName,
    slices: Slices = WHOLE,
) -> FittedHead:
    """A linear head: scale * (x . mean_k - |mean_k|^2 / 2), which has the order of the negative squared distances.

    The scale is the one of least val loss (temperature scaling, Guo et al. 2017, arXiv 1706.04599). A class without
    train images is never predicted. Raises ProbeError on unusable input.
    """
    require_usable(train_xy, val_xy, num_classes)
    tried = []
    for choice, columns in slices.items():
        started = time.perf_counter()
        scaler = Scaler.of(train_xy[0][:, columns], recipe.scaling, unit=recipe.distance == "cosine")
        train_ns, val_ns = (scaler.scaled(features_nd[:, columns]) for features_nd, _ in (train_xy, val_xy))
        head, scale = _scaled_means((train_ns, train_xy[1]), (val_ns, val_xy[1]), num_classes, unit=scaler.unit)
        val_nk = head.logits(val_ns)
        row: dict[str, float | int | str] = {
            "features": choice,
            "log10_scale": float(np.log10(scale)),
            "train_metric": score(head.logits(train_ns), train_xy[1], metric),
            "val_metric": score(val_nk, val_xy[1], metric),
            "val_loss": cross_entropy(val_nk, val_xy[1]),
            "seconds": time.perf_counter() - started,
        }
        tried.append(_Tried(row, linear_head(head, scaler, columns, width=train_xy[0].shape[1])))
    return _best(tried, recipe.select_by, option="log10_scale")


def _scaled_means(
    train_xy: LabelledFeatures, val_xy: LabelledFeatures, num_classes: int, *, unit: bool
) -> tuple[Head, float]:
    from scipy.optimize import minimize_scalar

    features_ns, labels_n = train_xy
    present, index_n = np.unique(labels_n, return_inverse=True)
    means_ks = np.stack([features_ns[labels_n == label].mean(axis=0, dtype=np.float64) for label in present])
    spread = float(np.square(features_ns - means_ks[index_n]).sum(axis=1).mean())
    if unit:
        means_ks /= np.maximum(np.linalg.norm(means_ks, axis=1, keepdims=True), 1e-12)

    def head_of(log_scale: float) -> Head:
        # Images that all lie on their means leave the unit of the scale open.
        weight_ks = means_ks * (np.exp(log_scale) / (spread or 1.0))
        head = Head(weight_ks, -0.5 * (weight_ks * means_ks).sum(axis=1))
        return head.of_all_classes(present, num_classes, len(labels_n))

    found = minimize_scalar(
        lambda log_scale: cross_entropy(head_of(log_scale).logits(val_xy[0]), val_xy[1]),
        bounds=_LOG_SCALES,
        method="bounded",
    )
    return head_of(found.x), float(np.exp(found.x) / (spread or 1.0))


def fit_neighbours(
    train_xy: LabelledFeatures,
    val_xy: LabelledFeatures,
    *,
    num_classes: int,
    recipe: KnnRecipe,
    metric: MetricName,
    slices: Slices = WHOLE,
) -> FittedHead:
    """A k-NN head for every slice and k of the recipe that train has images for, the best on val taken.

    Of equals the earlier slice, then the smaller k. Raises ProbeError on unusable input or when every k is too large.
    """
    require_usable(train_xy, val_xy, num_classes)
    neighbours = [k for k in recipe.k if k <= len(train_xy[1])]
    if not neighbours:
        raise ProbeError(f"k: {list(recipe.k)} are all over the {len(train_xy[1])} train images; add a smaller one")
    tried = []
    for choice, columns in slices.items():
        started = time.perf_counter()
        head = _neighbour_head(train_xy, columns, neighbours[-1], num_classes, recipe)
        nearest = [head.nearest(rows_bd, neighbours[-1]) for rows_bd in in_batches(val_xy[0])]
        cosines_bn, labels_bn = (torch.cat(parts) for parts in zip(*nearest, strict=True))
        for k in neighbours:
            val_nk = head.votes(cosines_bn[:, :k], labels_bn[:, :k]).numpy()
            row: dict[str, float | int | str] = {
                "features": choice,
                "k": k,
                "val_metric": score(val_nk, val_xy[1], metric),
                "val_loss": cross_entropy(val_nk, val_xy[1]),
                "seconds": time.perf_counter() - started,
            }
            tried.append(_Tried(row, head.with_neighbours(k)))
            started = time.perf_counter()
    return _best(tried, recipe.select_by, option="k")


def _neighbour_head(
    train_xy: LabelledFeatures, columns: slice, k: int, num_classes: int, recipe: KnnRecipe
) -> NeighbourHead:
    features_nd, labels_n = train_xy
    scaler = Scaler.of(features_nd[:, columns], recipe.scaling, unit=True)
    unit = unit_vectors(scaler, columns, width=features_nd.shape[1])
    vectors_ns = torch.cat([unit(rows_bd) for rows_bd in in_batches(features_nd)])
    return NeighbourHead(
        unit,
        vectors_ns,
        torch.from_numpy(labels_n),
        k=k,
        temperature=recipe.temperature,
        num_classes=num_classes,
    )


def unit_vectors(scaler: Scaler, columns: slice, *, width: int) -> UnitVectors:
    return UnitVectors(
        torch.arange(width)[columns], torch.from_numpy(scaler.mean_d), torch.from_numpy(1 / scaler.std_d)
    )


def linear_head(head: Head, scaler: Scaler, columns: slice, *, width: int) -> nn.Module:
    """A head fitted on scaled features of some columns, for raw features of all: a linear layer where that is exact."""
    if scaler.unit:
        unit = unit_vectors(scaler, columns, width=width)
        return UnitLinear(unit, torch.from_numpy(head.weight_kd), torch.from_numpy(head.bias_k))
    folded = scaler.folded(head)
    weight_kd = torch.zeros(len(folded.bias_k), width)
    weight_kd[:, columns] = torch.from_numpy(folded.weight_kd).float()
    return linear_layer(weight_kd, torch.from_numpy(folded.bias_k))


def _best(tried: list[_Tried], select_by: Literal["loss", "metric"], *, option: str) -> FittedHead:
    # max() keeps the first of equals.
    chosen = max(tried, key=lambda one: one.rank(select_by))
    table = pl.DataFrame([{**one.row, "chosen": one is chosen} for one in tried])
    value = chosen.row[option]
    assert not isinstance(value, str)
    return FittedHead(chosen.head, table, {option: value})
