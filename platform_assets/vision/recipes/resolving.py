"""What a trial is asked to do after every default, as the record that is hashed, and how a variant becomes one."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from platform_assets.vision.networks.plugins import plugin_sha256
from platform_assets.vision.recipes.backbones import Features, Sha256, Transformer, get_backbone
from platform_assets.vision.recipes.evaluation_options import MetricName as MetricName
from platform_assets.vision.recipes.modes import DEFAULT_RECIPES, RECIPE_OF_MODE, Combine, Mode
from platform_assets.vision.recipes.part_options import PartOptions
from platform_assets.vision.recipes.preprocessing import BoxMargin, Preprocessing, Resize
from platform_assets.vision.recipes.probe_options import (
    KnnRecipe,
    LightgbmRecipe,
    NearestMeanRecipe,
    ProbeRecipe,
)
from platform_assets.vision.recipes.train_options import Options, TrainRecipe
from platform_assets.vision.recipes.variants import BackboneOrNone, ImageSizePx, Seed, Variant, VariantName


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
    folds: int | None = None


class ResolvedTrial(Options):
    """One variant at one seed after every default: what `config.json` holds and `config_hash` names."""

    dataset: str
    experiment: str
    variant: VariantName
    seed: Seed
    metric: MetricName
    label_map_checksum: str = Field(pattern=r"^[0-9a-f]{64}$")
    backbone: BackboneOrNone = Field(description="empty for an ensemble, whose members have their own")
    mode: Mode
    pretrained_sha256: Sha256 | None
    plugin_sha256: Sha256 | None = Field(default=None, description="of the source of a plug-in's module")
    architecture: Transformer | None = None
    preprocessing: Preprocessing
    features: Features = "pooled"
    split_seed: int | None = Field(
        default=None, description="the split is drawn with it; None is the dataset's own split"
    )
    folds: int | None = Field(default=None, description="cross-validation; the seed says which fold is val")
    parts: PartOptions | None = None
    probe: ProbeRecipe | None
    nearest_mean: NearestMeanRecipe | None = None
    knn: KnnRecipe | None = None
    lightgbm: LightgbmRecipe | None = None
    train: TrainRecipe | None
    members: tuple[Member, ...] = Field(default=(), description="of a combination, in the order of their trials")
    combine: Combine | None = None

    @model_validator(mode="after")
    def _one_recipe(self) -> Self:
        wanted = RECIPE_OF_MODE.get(self.mode, "members")
        given = [name for name in (*DEFAULT_RECIPES, "members") if getattr(self, name)]
        if given != [wanted]:
            raise ValueError(f"mode {self.mode!r} is resolved with the recipe {wanted!r} alone, not with {given}")
        alone = self.mode != "ensemble"
        if alone != bool(self.backbone) or alone != (self.combine is None):
            raise ValueError(
                f"mode {self.mode!r} with backbone {self.backbone!r} and combine {self.combine!r}: an ensemble combines "
                "and has no backbone of its own, every other mode has one"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A CNN's trial is written as before there were transformers, plug-ins and other heads, so that hashes stay."""
        fields: dict[str, Any] = write(self)
        later = (
            "plugin_sha256",
            "architecture",
            "folds",
            "parts",
            "nearest_mean",
            "knn",
            "lightgbm",
            "members",
            "combine",
        )
        return {k: v for k, v in fields.items() if v not in (None, (), []) or k not in later}

    @property
    def starts_random(self) -> bool:
        """A finetune of random weights: asked for, and worth a warning in the log."""
        return self.mode == "finetune" and self.pretrained_sha256 is None

    @property
    def networks(self) -> tuple[ResolvedTrial, ...]:
        """The trials that trained what this one is made of: itself, or its members."""
        return tuple(member.trial for member in self.members) or (self,)

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


class Member(Options):
    """A finished trial that a combination is made of: what it was asked to be, and the checkpoint that it became."""

    trial: ResolvedTrial
    config_hash: Sha256
    checkpoint_id: str = Field(pattern=r"^[0-9a-f]{16}$")


def trial_key(variant: str, seed: int) -> str:
    return f"{variant}__s{seed}"


class WeightsNotFound(ValueError):
    """A trial starts from a file that nobody has looked for yet."""


def resolve_trial(
    variant: Variant, *, name: str, seed: int, protocol: Protocol, pretrained_sha256: str | None = None
) -> ResolvedTrial:
    """Fill in every default of `variant`, called `name`, for one seed under what its experiment fixes.

    `pretrained_sha256` is that of `weight_files.weights_of(variant, ...)`; without it only packaged weights are known.
    """
    backbone = get_backbone(variant.backbone)
    return ResolvedTrial(
        dataset=protocol.dataset,
        experiment=protocol.experiment,
        variant=name,
        seed=seed,
        metric=protocol.metric,
        label_map_checksum=protocol.label_map_checksum,
        backbone=variant.backbone,
        mode=variant.mode,
        pretrained_sha256=_start(variant, name, pretrained_sha256),
        plugin_sha256=plugin_sha256(variant.model) if variant.model else None,
        architecture=backbone.transformer,
        preprocessing=resolve_preprocessing(variant, protocol),
        features=variant.features,
        split_seed=seed if protocol.resample else None,
        folds=protocol.folds,
        parts=variant.parts,
        **_resolve_recipe(variant),
    )


def _start(variant: Variant, name: str, given_sha256: str | None) -> str | None:
    packaged = get_backbone(variant.backbone).weights
    if variant.mode == "scratch" or not variant.pretrained:
        return None
    if given_sha256 is None and (variant.weights is not None or packaged is None):
        raise WeightsNotFound(
            f"variant {name!r}: {variant.weights or variant.backbone} is not known by its bytes yet; find it with "
            "weight_files.weights_of and pass its sha256"
        )
    return given_sha256 or (packaged.sha256 if packaged else None)


def resolve_preprocessing(variant: Variant, protocol: Protocol) -> Preprocessing:
    """The pixels a variant sees: its own size, else the experiment's, else the backbone's native one."""
    image_size_px = variant.image_size_px or protocol.image_size_px
    return get_backbone(variant.backbone).preprocessing(
        image_size_px=image_size_px,
        resize=protocol.resize,
        box_margin=protocol.crop_to_box.margin if protocol.crop_to_box else None,
    )


def training_pixels(seen: Preprocessing, train: TrainRecipe) -> Preprocessing:
    """What training images are kept as: `seen` at the size that crops are cut from, and whole."""
    changes: dict[str, float] = {"image_size_px": train.source_side(seen.image_size_px)}
    if train.augmentation == "crop_flip":
        changes["crop_fraction"] = 1.0
    return seen.model_copy(update=changes)


def network_pixels(variant: Variant, protocol: Protocol) -> tuple[Preprocessing, ...]:
    """What a network's training asks of the decoder: nothing for a head on embeddings, or for a combination."""
    if RECIPE_OF_MODE.get(variant.mode) != "train":
        return ()
    seen = resolve_preprocessing(variant, protocol)
    return (training_pixels(seen, _resolve_recipe(variant)["train"]), seen)


def _resolve_recipe(variant: Variant) -> dict[str, Any]:
    name = RECIPE_OF_MODE[variant.mode]
    recipe = getattr(variant, name) or DEFAULT_RECIPES[name]
    if variant.mode == "scratch":
        recipe = recipe.model_copy(update={"backbone_learning_rate_factor": 1.0})
    return {**dict.fromkeys(DEFAULT_RECIPES), name: recipe}
