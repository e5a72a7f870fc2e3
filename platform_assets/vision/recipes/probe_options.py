"""The options of heads that are fitted on frozen features, one model per mode, and the parts of a vector that they may read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from platform_assets.vision.recipes.train_options import Options

if TYPE_CHECKING:
    from platform_assets.vision.recipes.backbones import Features

FeatureChoice = Literal["whole", "pooled", "stages", "cls", "mean", "cls_1", "cls_4", "cls_1_mean"]

# What of a vector may be read, smallest first: of two equal choices on val the first is taken.
FEATURE_CHOICES: dict[Features, tuple[FeatureChoice, ...]] = {
    "pooled": ("whole",),
    "stages": ("pooled", "stages", "whole"),
    "cls": ("whole",),
    "mean": ("whole",),
    "cls_mean": ("cls", "mean", "whole"),
    "tokens": ("cls_1", "mean", "cls_1_mean", "cls_4", "whole"),
}


def _distinct_and_ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


FeatureChoices = Literal["all"] | Annotated[tuple[FeatureChoice, ...], Field(min_length=1)]


class SlicedOptions(Options):
    """What is chosen on val, and by what: the parts of the cached vector that are tried, and the option of the mode."""

    select_by: Literal["loss", "metric"] = "loss"
    feature_choices: FeatureChoices = "all"

    def choices_of(self, features: Features) -> tuple[FeatureChoice, ...]:
        """The parts to try, smallest first. Raises ValueError on one that these features do not have."""
        known = FEATURE_CHOICES[features]
        if self.feature_choices == "all":
            return known
        for choice in self.feature_choices:
            if choice not in known:
                raise ValueError(
                    f"feature_choices: {choice!r} is no part of features {features!r}; use of {', '.join(known)}"
                )
        return tuple(choice for choice in known if choice in self.feature_choices)


def columns_of(choice: FeatureChoice, features: Features, *, width: int, pooled_width: int) -> slice:
    """Where a part lies in a vector of `width`, in the order in which stages.py and features.py write it."""
    token = width // {"cls_mean": 2, "tokens": 5}.get(features, 1)
    ends: dict[FeatureChoice, tuple[int, int]] = {
        "whole": (0, width),
        "pooled": (width - pooled_width, width),
        "stages": (0, width - pooled_width),
        "cls": (0, token),
        "mean": (width - token, width),
        "cls_1": (width - 2 * token, width - token),
        "cls_4": (0, width - token),
        "cls_1_mean": (width - 2 * token, width),
    }
    return slice(*ends[choice])


class ProbeRecipe(SlicedOptions):
    """Logistic regression on frozen features: the grid of C (inverse regularization) and the solver's limits.

    DINOv2's grid is log10_c_min -6, log10_c_max 5, points 45.
    """

    log10_c_min: float = Field(default=-5.0, ge=-10, le=10)
    log10_c_max: float = Field(default=1.0, ge=-10, le=10)
    points: int = Field(default=13, ge=1, le=100)
    # One fit a choice and value of C, so that all is asked for; what only compares vectors tries all.
    feature_choices: FeatureChoices = ("whole",)
    scaling: Literal["standardize", "l2", "none"] = Field(
        default="standardize", description="each feature to unit deviation, each vector to unit length, or neither"
    )
    max_iterations: int = Field(default=1000, ge=1)
    tolerance: float = Field(default=1e-4, gt=0)

    @model_validator(mode="after")
    def _grid_ascends(self) -> Self:
        if self.log10_c_max < self.log10_c_min:
            raise ValueError(f"log10_c_max {self.log10_c_max} is below log10_c_min {self.log10_c_min}; swap them")
        if (self.points == 1) != (self.log10_c_min == self.log10_c_max):
            raise ValueError(
                f"points {self.points} does not fit the range {self.log10_c_min} to {self.log10_c_max}; "
                "one point needs equal ends, several need different ends"
            )
        return self

    @property
    def log10_c_grid(self) -> tuple[float, ...]:
        """The candidates, strongest regularization first."""
        step = (self.log10_c_max - self.log10_c_min) / max(1, self.points - 1)
        return tuple(round(self.log10_c_min + step * i, 6) for i in range(self.points))


class NearestMeanRecipe(SlicedOptions):
    """The class whose mean train vector is nearest. The scale of the logits is fitted to the val loss; it moves no prediction."""

    distance: Literal["cosine", "euclidean"] = "cosine"
    scaling: Literal["standardize", "none"] = "standardize"


class KnnRecipe(SlicedOptions):
    """Weighted vote of the k nearest train images by cosine (Caron et al. 2021, arXiv 2104.14294); k is chosen on val."""

    k: Annotated[
        tuple[Annotated[int, Field(ge=1, le=10_000)], ...], Field(min_length=1), AfterValidator(_distinct_and_ascending)
    ] = (1, 5, 10, 20, 50, 100, 200)
    temperature: float = Field(default=0.07, gt=0)
    scaling: Literal["standardize", "none"] = Field(default="none", description="before each vector gets unit length")


class LightgbmRecipe(Options):
    """Gradient boosted trees (Ke et al. 2017): rounds of one tree a class, ended when the val loss has stopped falling."""

    num_leaves: int = Field(default=7, ge=2, le=1024)
    learning_rate: float = Field(default=0.2, gt=0, le=1)
    rounds: int = Field(default=200, ge=1, le=10_000)
    patience_rounds: int = Field(default=10, ge=1)
    min_images_in_leaf: int = Field(default=5, ge=1)
    l2: float = Field(default=10.0, ge=0, description="of leaf values; without it many classes of few images diverge")
    feature_share: float = Field(default=0.02, gt=0, le=1, description="of the features, drawn anew for every tree")
