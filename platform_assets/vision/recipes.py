"""What a trial is asked to do, as frozen models that YAML fills in and as the fully resolved record that is hashed."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from platform_assets.vision.backbones import Features, Sha256, Transformer, get_backbone, known_now, require_spelling
from platform_assets.vision.modes import COMBINATION_MODES, DEFAULT_RECIPES, FROZEN_MODES, RECIPE_OF_MODE, Combine, Mode
from platform_assets.vision.part_options import PartOptions
from platform_assets.vision.plugins import PLUGIN_NAME, plugin_sha256
from platform_assets.vision.preprocessing import BoxMargin, Preprocessing, Resize
from platform_assets.vision.probe_options import (
    KnnRecipe,
    LightgbmRecipe,
    NearestMeanRecipe,
    ProbeRecipe,
    SlicedOptions,
)
from platform_assets.vision.train_options import Options, TrainRecipe

MetricName = Literal["top1", "macro_f1", "balanced_accuracy"]


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
    if variant.train is not None and variant.train.mixes and variant.parts.contrast_weight > 0:
        raise ValueError(
            "option 'parts' pulls images of one class together, and mixup and cutmix make images of two; set "
            "parts.contrast_weight: 0 or turn the mixing off"
        )


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


def _resolve_recipe(variant: Variant) -> dict[str, Any]:
    name = RECIPE_OF_MODE[variant.mode]
    recipe = getattr(variant, name) or DEFAULT_RECIPES[name]
    if variant.mode == "scratch":
        recipe = recipe.model_copy(update={"backbone_learning_rate_factor": 1.0})
    return {**dict.fromkeys(DEFAULT_RECIPES), name: recipe}
