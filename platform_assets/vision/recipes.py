"""What a trial is asked to do, as frozen models that YAML fills in and as the fully resolved record that is hashed."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from platform_assets.vision.backbones import Features, get_backbone
from platform_assets.vision.preprocessing import BoxMargin, Preprocessing, Resize
from platform_assets.vision.train_options import Options, TrainRecipe

Mode = Literal["scratch", "linear_probe", "finetune"]
MetricName = Literal["top1", "macro_f1", "balanced_accuracy"]


def _known_backbone(name: str) -> str:
    return get_backbone(name).name


def _distinct_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds {list(seeds)} name one seed twice; every seed is one trial")
    return seeds


# "__s" joins a variant and its seed into a partition key, so a name may not hold two underscores in a row.
VariantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+([_-][a-z0-9]+)*$", max_length=60)]
BackboneName = Annotated[str, AfterValidator(_known_backbone)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct_seeds)]
ImageSizePx = Annotated[int, Field(ge=32, le=1024)]


class ProbeRecipe(Options):
    """Logistic regression on frozen features: the grid of C (inverse regularization) and the solver's limits."""

    log10_c_min: float = Field(default=-5.0, ge=-10, le=10)
    log10_c_max: float = Field(default=1.0, ge=-10, le=10)
    points: int = Field(default=13, ge=1, le=100)
    select_by: Literal["loss", "metric"] = "loss"
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


class Variant(Options):
    """One way of doing the job. `image_size_px` and `seeds` fall back on the experiment's."""

    backbone: BackboneName
    mode: Mode
    image_size_px: ImageSizePx | None = None
    features: Features = "pooled"
    seeds: Seeds | None = None
    probe: ProbeRecipe | None = None
    train: TrainRecipe | None = None

    @model_validator(mode="after")
    def _options_fit_the_mode(self) -> Self:
        _refuse_other_modes_options(self)
        get_backbone(self.backbone).dim(self.features)
        if self.mode != "linear_probe" and self.features != "pooled":
            raise ValueError(
                f"features {self.features!r} is for mode 'linear_probe'; a network trains on 'pooled' ones"
            )
        if self.mode != "scratch" and get_backbone(self.backbone).weights is None:
            raise ValueError(
                f"mode {self.mode!r} starts from pretrained weights and backbone {self.backbone!r} has none; "
                "use mode 'scratch' or a pretrained backbone"
            )
        return self


def _refuse_other_modes_options(variant: Variant) -> None:
    other = "train" if variant.mode == "linear_probe" else "probe"
    if getattr(variant, other) is not None:
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


class CropToBox(Options):
    """The model sees the annotated box of each image, grown on every side by `margin` of its longer side."""

    margin: BoxMargin = 0.1


class Protocol(Options):
    """What all variants of one experiment share, so that they can be compared; a variant may set its own size only."""

    dataset: str = Field(min_length=1)
    experiment: str = Field(min_length=1)
    metric: MetricName
    label_map_checksum: str = Field(pattern=r"^[0-9a-f]{64}$")
    image_size_px: ImageSizePx | None = None
    resize: Resize = "squash"
    crop_to_box: CropToBox | None = None
    resample: bool = False


class ResolvedTrial(Options):
    """One variant at one seed after every default: what `config.json` holds and `config_hash` names."""

    dataset: str
    experiment: str
    variant: VariantName
    seed: Seed
    metric: MetricName
    label_map_checksum: str = Field(pattern=r"^[0-9a-f]{64}$")
    backbone: BackboneName
    mode: Mode
    pretrained_sha256: str | None
    preprocessing: Preprocessing
    features: Features = "pooled"
    split_seed: int | None = Field(
        default=None, description="the split is drawn with it; None is the dataset's own split"
    )
    probe: ProbeRecipe | None
    train: TrainRecipe | None

    @model_validator(mode="after")
    def _one_recipe(self) -> Self:
        wanted = "probe" if self.mode == "linear_probe" else "train"
        given = [name for name in ("probe", "train") if getattr(self, name) is not None]
        if given != [wanted]:
            raise ValueError(f"mode {self.mode!r} is resolved with the recipe {wanted!r} alone, not with {given}")
        return self

    @property
    def trial(self) -> str:
        """The partition key, `<variant>__s<seed>`."""
        return trial_key(self.variant, self.seed)

    def canonical_json(self) -> str:
        """The one spelling that is hashed: sorted keys, no spaces, no NaN."""
        fields = self.model_dump(mode="json")
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @property
    def config_hash(self) -> str:
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def trial_key(variant: str, seed: int) -> str:
    return f"{variant}__s{seed}"


def resolve_trial(variant: Variant, *, name: str, seed: int, protocol: Protocol) -> ResolvedTrial:
    """Fill in every default of `variant`, called `name`, for one seed under what its experiment fixes."""
    weights = get_backbone(variant.backbone).weights if variant.mode != "scratch" else None
    return ResolvedTrial(
        dataset=protocol.dataset,
        experiment=protocol.experiment,
        variant=name,
        seed=seed,
        metric=protocol.metric,
        label_map_checksum=protocol.label_map_checksum,
        backbone=variant.backbone,
        mode=variant.mode,
        pretrained_sha256=weights.sha256 if weights else None,
        preprocessing=resolve_preprocessing(variant, protocol),
        features=variant.features,
        split_seed=seed if protocol.resample else None,
        probe=(variant.probe or ProbeRecipe()) if variant.mode == "linear_probe" else None,
        train=None if variant.mode == "linear_probe" else _resolve_train(variant),
    )


def resolve_preprocessing(variant: Variant, protocol: Protocol) -> Preprocessing:
    """The pixels a variant sees: its own size, else the experiment's, else the backbone's native one."""
    image_size_px = variant.image_size_px or protocol.image_size_px
    return get_backbone(variant.backbone).preprocessing(
        image_size_px=image_size_px,
        resize=protocol.resize,
        box_margin=protocol.crop_to_box.margin if protocol.crop_to_box else None,
    )


def _resolve_train(variant: Variant) -> TrainRecipe:
    recipe = variant.train or TrainRecipe()
    if variant.mode == "scratch":
        recipe = recipe.model_copy(update={"backbone_learning_rate_factor": 1.0})
    return recipe
