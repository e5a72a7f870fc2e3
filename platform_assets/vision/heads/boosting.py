"""Fitting gradient boosted trees on frozen features. The only module that needs LightGBM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from platform_assets.vision.evaluation.scores import score
from platform_assets.vision.heads.feature_scaling import LabelledFeatures, require_usable
from platform_assets.vision.heads.nearest import FittedHead
from platform_assets.vision.heads.tree_head import TreeHead
from platform_assets.vision.recipes.probe_options import LightgbmRecipe

if TYPE_CHECKING:
    from platform_assets.vision.recipes.resolving import MetricName

# The same trees on every machine.
_THREADS = 1


class LightgbmNotInstalled(ValueError):
    """A trial of mode lightgbm where LightGBM is not installed."""


def fit_trees(
    train_xy: LabelledFeatures,
    val_xy: LabelledFeatures,
    *,
    num_classes: int,
    recipe: LightgbmRecipe,
    metric: MetricName,
    seed: int,
) -> FittedHead:
    """Boosting on train, ended at the round of least val loss; `candidates` has one row per round.

    A class without train images starts, as LightGBM has it, at a probability of about 1e-15.
    Raises ProbeError on unusable input and LightgbmNotInstalled.
    """
    lightgbm = _lightgbm()
    require_usable(train_xy, val_xy, num_classes)
    parameters = _parameters(recipe, num_classes, seed)
    train = lightgbm.Dataset(train_xy[0], label=train_xy[1], params=parameters)
    val = train.create_valid(val_xy[0], label=val_xy[1])
    course: dict[str, dict[str, list[float]]] = {}
    booster = lightgbm.train(
        parameters,
        train,
        num_boost_round=recipe.rounds,
        valid_sets=[train, val],
        valid_names=["train", "val"],
        feval=lambda logits_nk, part: ("metric", score(logits_nk, part.get_label().astype(np.int64), metric), True),
        callbacks=[
            lightgbm.record_evaluation(course),
            lightgbm.early_stopping(recipe.patience_rounds, first_metric_only=True, verbose=False),
        ],
    )
    best = int(booster.best_iteration)
    head = TreeHead.of_model_text(booster.model_to_string(num_iteration=best), num_classes=num_classes)
    return FittedHead(head, _course_table(course, best), {"rounds": best, "depth": head.steps})


def _lightgbm() -> Any:  # the module
    try:
        import lightgbm
    except ImportError as error:
        raise LightgbmNotInstalled(
            "mode 'lightgbm': the package lightgbm is not installed; install the extra 'lightgbm' of kestrel-vision"
        ) from error
    return lightgbm


def _parameters(recipe: LightgbmRecipe, num_classes: int, seed: int) -> dict[str, Any]:
    return {
        "objective": "multiclass",
        "metric": "multi_logloss",
        "num_class": num_classes,
        "num_leaves": recipe.num_leaves,
        "learning_rate": recipe.learning_rate,
        "min_data_in_leaf": recipe.min_images_in_leaf,
        "lambda_l2": recipe.l2,
        "feature_fraction": recipe.feature_share,
        # Vectors are finite, so that a tree needs no path for missing values.
        "use_missing": False,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": _THREADS,
        "seed": seed,
        "verbosity": -1,
    }


def _course_table(course: dict[str, dict[str, list[float]]], best: int) -> pl.DataFrame:
    rounds = range(1, len(course["val"]["metric"]) + 1)
    return pl.DataFrame(
        {
            "round": rounds,
            "train_loss": course["train"]["multi_logloss"],
            "val_loss": course["val"]["multi_logloss"],
            "train_metric": course["train"]["metric"],
            "val_metric": course["val"]["metric"],
            "chosen": [number == best for number in rounds],
        }
    )
