"""One way of doing the job as YAML gives it, and the rules that its options keep among themselves."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from platform_assets.vision.networks.plugins import PLUGIN_NAME
from platform_assets.vision.recipes.backbones import Features, known_now, require_spelling
from platform_assets.vision.recipes.modes import (
    COMBINATION_MODES,
    DEFAULT_RECIPES,
    FROZEN_MODES,
    RECIPE_OF_MODE,
    Combine,
    Mode,
)
from platform_assets.vision.recipes.part_options import PartOptions
from platform_assets.vision.recipes.probe_options import (
    KnnRecipe,
    LightgbmRecipe,
    NearestMeanRecipe,
    ProbeRecipe,
    SlicedOptions,
)
from platform_assets.vision.recipes.train_options import Options, TrainRecipe


def _distinct_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds {list(seeds)} name one seed twice; every seed is one trial")
    return seeds


# "__s" joins a variant and its seed into a partition key, so a name may not hold two underscores in a row.
VariantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$", max_length=60)]
BackboneName = Annotated[str, AfterValidator(require_spelling)]
BackboneOrNone = Annotated[str, AfterValidator(lambda name: name and require_spelling(name))]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct_seeds)]
ImageSizePx = Annotated[int, Field(ge=32, le=1024)]


class Published(Options):
    """What others report of this variant on this dataset; it stands beside ours and is part of no trial."""

    top1: float = Field(ge=0, le=1, description="a fraction, as all accuracies here")
    source: str = Field(min_length=3, description="paper or page, and the set-up where it differs")


class Variant(Options):
    """One way of doing the job. `image_size_px` and `seeds` fall back on the experiment's."""

    backbone: BackboneOrNone = ""
    model: str | None = Field(
        default=None,
        pattern=PLUGIN_NAME.pattern,
        description="instead of backbone: module:callable of a network of your own (plugins.py)",
    )
    mode: Mode
    weights: str | None = Field(
        default=None,
        pattern=r"\.(safetensors|pth|pt|bin)$",
        description="a file of pretrained weights to start from, instead of the published ones; relative to the project",
    )
    pretrained: bool = Field(default=True, description="false: mode finetune starts from random weights")
    image_size_px: ImageSizePx | None = None
    features: Features = "pooled"
    seeds: Seeds | None = None
    tuned_by: str | None = Field(
        default=None,
        pattern="^[a-z0-9_]+$",
        description="a search of `tune`, whose best options replace those said here",
    )
    probe: ProbeRecipe | None = None
    nearest_mean: NearestMeanRecipe | None = None
    knn: KnnRecipe | None = None
    lightgbm: LightgbmRecipe | None = None
    train: TrainRecipe | None = None
    parts: PartOptions | None = Field(
        default=None, description="part attention: the last block sees parts (transformers)"
    )
    published: Published | None = Field(
        default=None, description="a figure to reproduce, shown beside the measured one on the leaderboard"
    )
    of: tuple[VariantName, ...] = Field(
        default=(), description="variants that a soup or ensemble is made of, all seeds"
    )
    combine: Combine | None = Field(
        default=None,
        description="of mode ensemble: mean of the probabilities (the default), mean with weights fitted on val, or vote",
    )

    @model_validator(mode="before")
    @classmethod
    def _model_is_the_backbone(cls, given: Any) -> Any:
        """A plug-in goes by its own name wherever a backbone does."""
        if not isinstance(given, dict) or given.get("mode") in COMBINATION_MODES:
            return given
        backbone, model = given.get("backbone"), given.get("model")
        if backbone and model and backbone != model:
            raise ValueError("options 'backbone' and 'model' exclude each other; remove one")
        if not (backbone or model):
            raise ValueError("option 'backbone' is missing; name one, or code of your own as `model: module:callable`")
        return {**given, "backbone": backbone or model}

    @model_validator(mode="after")
    def _backbone_can_do_it(self) -> Self:
        if self.mode in COMBINATION_MODES:
            return self
        _require_start(self)
        backbone = known_now(self.backbone)
        if backbone is None:
            return self
        if backbone.is_plugin != (self.model is not None):
            raise ValueError(f"backbone {self.backbone!r} is code of your own; name it as `model: {self.backbone}`")
        if not (backbone.is_plugin and self.features == "pooled"):
            backbone.dim(self.features)
        if self.image_size_px is not None:
            backbone.require_size(self.image_size_px)
        return self

    @model_validator(mode="after")
    def _options_fit_the_mode(self) -> Self:
        if self.mode in COMBINATION_MODES:
            _require_members_alone(self)
            return self
        _refuse_other_modes_options(self)
        if self.mode not in FROZEN_MODES and self.features != "pooled":
            raise ValueError(
                f"features {self.features!r} is for mode {' or '.join(map(repr, FROZEN_MODES))}; "
                "a network trains on 'pooled' ones"
            )
        _require_parts_make_sense(self)
        _require_crops_fit(self)
        recipe = getattr(self, RECIPE_OF_MODE[self.mode])
        if isinstance(recipe, SlicedOptions):
            recipe.choices_of(self.features)
        return self


def _require_start(variant: Variant) -> None:
    """What the network starts from has to be said, and said once."""
    if variant.mode == "scratch" and variant.weights is not None:
        raise ValueError("option 'weights' has no meaning in mode 'scratch'; remove it or use mode 'finetune'")
    if not variant.pretrained and variant.mode != "finetune":
        raise ValueError(f"option 'pretrained' false is for mode 'finetune', not for {variant.mode!r}; remove it")
    if not variant.pretrained and variant.weights is not None:
        raise ValueError("options 'weights' and 'pretrained' false exclude each other; remove one")
    if variant.model is not None and variant.mode not in ("scratch", "finetune"):
        raise ValueError(f"option 'model' is for modes 'scratch' and 'finetune', not for {variant.mode!r}")
    backbone = known_now(variant.backbone)
    published = backbone is None or backbone.has_weights
    if variant.mode != "scratch" and variant.pretrained and variant.weights is None and not published:
        raise ValueError(
            f"mode {variant.mode!r} starts from pretrained weights and backbone {variant.backbone!r} has none; "
            "use mode 'scratch' or a pretrained backbone, or name a file with `weights: PATH`"
        )


def _require_members_alone(variant: Variant) -> None:
    """A combination is as its members are, down to the pixels; what it says of itself is how they come together."""
    said = ("mode", "of", "combine") if variant.mode == "ensemble" else ("mode", "of")
    for name, option in Variant.model_fields.items():
        if name not in said and getattr(variant, name) != option.default:
            raise ValueError(
                f"option {name!r} has no meaning in mode {variant.mode!r}, which takes {', '.join(said[1:])} alone; remove it"
            )
    if not variant.of:
        raise ValueError(f"option 'of' is missing; mode {variant.mode!r} needs the variants that it is made of")
    if len(set(variant.of)) != len(variant.of):
        raise ValueError(f"of {list(variant.of)} names one variant twice; name each once")


def _require_parts_make_sense(variant: Variant) -> None:
    if variant.parts is None:
        return
    if variant.mode in FROZEN_MODES:
        raise ValueError(f"option 'parts' is for networks that are trained, not for mode {variant.mode!r}; remove it")
    backbone = known_now(variant.backbone)
    if backbone is not None and backbone.transformer is None:
        raise ValueError(f"option 'parts' is for vision transformers, backbone {variant.backbone!r} is none; remove it")
    stride_px = variant.parts.stride_px
    if backbone is not None and backbone.transformer and stride_px and stride_px > backbone.transformer.patch_px:
        raise ValueError(
            f"parts.stride_px {stride_px} is more than the {backbone.transformer.patch_px} pixels of a patch of "
            f"{variant.backbone!r}, so pixels between patches would not be seen; lower it"
        )
    if variant.image_size_px is not None:
        require_patches(variant, variant.image_size_px)
    if variant.train is not None and variant.train.mixes and variant.parts.contrast_weight > 0:
        raise ValueError(
            "option 'parts' pulls images of one class together, and mixup and cutmix make images of two; set "
            "parts.contrast_weight: 0 or turn the mixing off"
        )


def require_patches(variant: Variant, image_size_px: int | None) -> None:
    """Raises ValueError where parts are more than the patches at a size, of None at the backbone's own."""
    if variant.parts is None:
        return
    backbone = known_now(variant.backbone)
    if backbone is not None and backbone.transformer is not None:
        size_px = image_size_px or backbone.image_size_px
        variant.parts.require_patches(patch_px=backbone.transformer.patch_px, image_size_px=size_px)


def _require_crops_fit(variant: Variant) -> None:
    backbone = known_now(variant.backbone)
    if variant.train is not None and variant.train.crop_size_px and backbone is not None and backbone.transformer:
        raise ValueError(
            f"option 'train.crop_size_px' is for networks that take any size, backbone {variant.backbone!r} has positions "
            "for one; remove it"
        )


def _refuse_other_modes_options(variant: Variant) -> None:
    for combining in ("of", "combine"):
        if getattr(variant, combining):
            raise ValueError(
                f"option {combining!r} is for mode {' or '.join(map(repr, COMBINATION_MODES))}, not for {variant.mode!r}"
            )
    for other in DEFAULT_RECIPES:
        if other != RECIPE_OF_MODE[variant.mode] and getattr(variant, other) is not None:
            raise ValueError(f"option {other!r} has no meaning in mode {variant.mode!r}; remove it")
    train = variant.train
    if train is None:
        return
    if "backbone_learning_rate_factor" in train.model_fields_set and train.layer_decay is not None:
        raise ValueError("options 'train.backbone_learning_rate_factor' and 'train.layer_decay' exclude each other")
    if (
        variant.mode == "scratch"
        and "backbone_learning_rate_factor" in train.model_fields_set
        and train.backbone_learning_rate_factor != 1.0
    ):
        raise ValueError(
            f"option 'train.backbone_learning_rate_factor' {train.backbone_learning_rate_factor} has no meaning in "
            "mode 'scratch', where head and backbone start alike; remove it"
        )
    for option in ("frozen_layers", "freeze_backbone_epochs"):
        if variant.mode == "scratch" and getattr(train, option):
            raise ValueError(
                f"option 'train.{option}' {getattr(train, option)} has no meaning in mode 'scratch', where layers that are "
                "not trained stay random; remove it"
            )
