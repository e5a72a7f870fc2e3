"""One trial on cached vectors, fitted: a head of its own for a frozen backbone, from the train and val parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from platform_assets.vision.heads.modules import UnitLinear, UnitVectors, linear_layer
from platform_assets.vision.heads.nearest import FittedHead, fit_nearest_mean, fit_neighbours
from platform_assets.vision.heads.probe import FittedProbe, fit_probe
from platform_assets.vision.networks.models import Classifier, initial_classifier
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.modes import RECIPE_OF_MODE
from platform_assets.vision.recipes.probe_options import KnnRecipe, LightgbmRecipe, NearestMeanRecipe, columns_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from platform_assets.vision.datasets.label_map import LabelMap
    from platform_assets.vision.datasets.splits import Part
    from platform_assets.vision.heads.feature_scaling import LabelledFeatures
    from platform_assets.vision.networks.weight_files import WeightsFile
    from platform_assets.vision.recipes.resolving import ResolvedTrial


class MissingVectors(ValueError):
    """Images of a trial that have no embedding."""


@dataclass(frozen=True)
class Fitted:
    """A classifier ready to save. `history` has one row per epoch, or per choice tried for a head alone.

    `last` are the weights after the last epoch, where the classifier has those of the best one.
    """

    classifier: Classifier
    history: pl.DataFrame
    summary: dict[str, float | int | bool]
    last: dict[str, torch.Tensor] | None = None


def part_labels(records: pl.DataFrame, part: Part, label_map: LabelMap) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of a part and their label indices, both [n]."""
    rows = np.flatnonzero((records["split"] == part).to_numpy())
    labels = records["label"].to_list()
    return rows, np.array([label_map.index(labels[row]) for row in rows], dtype=np.int64)


def features_of(records: pl.DataFrame, vectors: pl.DataFrame) -> NDArray[np.float32]:
    """features_nd of every record, from a frame of image_id and vector. Raises MissingVectors."""
    joined = records.select("image_id", "path").join(vectors, on="image_id", how="left", maintain_order="left")
    missing = joined.filter(pl.col("vector").is_null())
    if not missing.is_empty():
        raise MissingVectors(
            f"{missing.height} images have no embedding, the first is {missing['path'][0]}; materialize embeddings again"
        )
    return joined["vector"].to_numpy(writable=True)


def fit_probe_trial(
    trial: ResolvedTrial,
    records: pl.DataFrame,
    vectors: pl.DataFrame,
    label_map: LabelMap,
    *,
    weights: WeightsFile | None = None,
) -> Fitted:
    """A head of one of FROZEN_MODES on a backbone's vectors, and the backbone with that head as one classifier.

    `weights` is that of `initial_classifier`.
    """
    features = features_of(records, vectors)
    (train_rows, train_labels), (val_rows, val_labels) = (part_labels(records, p, label_map) for p in ("train", "val"))
    fitted = _fit_head(trial, (features[train_rows], train_labels), (features[val_rows], val_labels), len(label_map))
    classifier = initial_classifier(trial, len(label_map), weights)
    classifier.head = fitted.head
    return Fitted(classifier.eval(), fitted.candidates, fitted.summary)


def _fit_head(
    trial: ResolvedTrial, train_xy: LabelledFeatures, val_xy: LabelledFeatures, num_classes: int
) -> FittedHead:
    recipe = getattr(trial, RECIPE_OF_MODE[trial.mode])
    shared: dict[str, Any] = {"num_classes": num_classes, "recipe": recipe, "metric": trial.metric}
    if isinstance(recipe, LightgbmRecipe):
        from platform_assets.vision.heads.boosting import fit_trees

        return fit_trees(train_xy, val_xy, **shared, seed=trial.seed)
    backbone = get_backbone(trial.backbone)
    shared["slices"] = {
        choice: columns_of(choice, trial.features, width=train_xy[0].shape[1], pooled_width=backbone.dim("pooled"))
        for choice in recipe.choices_of(trial.features)
    }
    if isinstance(recipe, KnnRecipe):
        return fit_neighbours(train_xy, val_xy, **shared)
    if isinstance(recipe, NearestMeanRecipe):
        return fit_nearest_mean(train_xy, val_xy, **shared)
    probe = fit_probe(train_xy, val_xy, **shared)
    return FittedHead(
        _probe_head(probe), probe.candidates, {"log10_c": probe.log10_c, "at_grid_edge": probe.at_grid_edge}
    )


def _probe_head(probe: FittedProbe) -> nn.Module:
    import torch

    weight_kd, bias_k = torch.from_numpy(probe.weight_kd), torch.from_numpy(probe.bias_k)
    if not probe.unit:
        return linear_layer(weight_kd, bias_k)
    columns_s = torch.arange(weight_kd.shape[1])[probe.columns]
    unit = UnitVectors(columns_s, torch.zeros(len(columns_s)), torch.ones(len(columns_s)))
    return UnitLinear(unit, weight_kd[:, columns_s], bias_k)
