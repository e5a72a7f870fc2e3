"""The modes of a trial, and the recipe that each goes by."""

from __future__ import annotations

from typing import Literal

from platform_assets.vision.recipes.probe_options import KnnRecipe, LightgbmRecipe, NearestMeanRecipe, ProbeRecipe
from platform_assets.vision.recipes.train_options import Options, TrainRecipe

Mode = Literal["scratch", "linear_probe", "nearest_mean", "knn", "lightgbm", "finetune", "soup", "ensemble"]
# These fit a head on embeddings; the others train a network on pixels.
FROZEN_MODES: tuple[Mode, ...] = ("linear_probe", "nearest_mean", "knn", "lightgbm")
# These combine trials that are finished (combination_options.py); they have no recipe.
COMBINATION_MODES: tuple[Mode, ...] = ("soup", "ensemble")
Combine = Literal["mean", "weighted", "vote"]
# The option that holds the recipe of a mode.
RecipeName = Literal["probe", "nearest_mean", "knn", "lightgbm", "train"]
RECIPE_OF_MODE: dict[Mode, RecipeName] = {
    "scratch": "train",
    "linear_probe": "probe",
    "nearest_mean": "nearest_mean",
    "knn": "knn",
    "lightgbm": "lightgbm",
    "finetune": "train",
}
DEFAULT_RECIPES: dict[RecipeName, Options] = {
    "probe": ProbeRecipe(),
    "nearest_mean": NearestMeanRecipe(),
    "knn": KnnRecipe(),
    "lightgbm": LightgbmRecipe(),
    "train": TrainRecipe(),
}
