"""What a recipe may say of a backbone: the record of one, and the way from its name to the record."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from platform_assets.vision.images.resampling import Interpolation
from platform_assets.vision.networks.plugins import PLUGIN_NAME
from platform_assets.vision.recipes.backbone_entries import ENTRIES
from platform_assets.vision.recipes.preprocessing import Preprocessing, Resize
from platform_assets.vision.recipes.train_options import DoesNotTrain

Features = Literal["pooled", "stages", "cls", "mean", "cls_mean", "tokens"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Rgb = tuple[float, float, float]
Normalization = Literal["imagenet", "half", "clip", "unit"]

NORMALIZATIONS: dict[Normalization, tuple[Rgb, Rgb]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and std, RGB on the 0 to 1 scale, under the names that the registry uses."""

# `tokens` is the class token of each of the last blocks and the mean of the last one's patches: DINOv2's linear evaluation.
TOKEN_BLOCKS = 4

_TIMM_NAME = re.compile(r"timm/([a-z0-9_]+(\.[a-z0-9_]+)?)")


class UnknownBackbone(ValueError):
    """A recipe names a backbone that is neither registered, nor timm's, nor a plug-in."""


class SizeDoesNotFit(DoesNotTrain):
    """An image size that a backbone cannot take."""


class PackagedWeights(BaseModel):
    """A weights file inside an installed package, with the SHA-256 that it must have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str
    file: str
    sha256: Sha256


class HubWeights(BaseModel):
    """A weights file of a repository on the model hub. Its SHA-256 is learned at the first download, not known here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo: str
    file: str = "model.safetensors"


class Transformer(BaseModel):
    """What a vision transformer's tokens are: patches of `patch_px` squared behind the class and register tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_px: int = Field(ge=1)
    embed_dim: int = Field(ge=1)
    depth: int = Field(ge=1)
    heads: int = Field(ge=1)
    class_token: bool
    register_tokens: int = Field(ge=0)

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of those of the patches."""
        return int(self.class_token) + self.register_tokens


class Backbone(BaseModel):
    """One network without a head. Without `weights` and `hub` it trains from scratch, or from a file of one's own.

    `feature_dim` is None where only the code of a plug-in knows it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    timm_name: str | None
    weights: PackagedWeights | None
    hub: HubWeights | None = None
    normalization: Normalization
    image_size_px: int
    interpolation: Interpolation
    crop_fraction: float
    feature_dim: int | None
    stages_dim: int | None = None
    parameters: int | None = Field(default=None, description="of the network without a head")
    transformer: Transformer | None = None
    licence: str
    weights_licence: str | None
    citation: str

    @property
    def architecture(self) -> Literal["cnn", "transformer"]:
        return "transformer" if self.transformer else "cnn"

    @property
    def has_weights(self) -> bool:
        """Whether pretrained weights of it are published."""
        return self.weights is not None or self.hub is not None

    @property
    def is_plugin(self) -> bool:
        return ":" in self.name

    @property
    def slug(self) -> str:
        """The name as a file or a key: letters, digits, `_` and `.` alone."""
        return self.name.removeprefix("timm/").replace(":", ".")

    @property
    def mean(self) -> Rgb:
        return NORMALIZATIONS[self.normalization][0]

    @property
    def std(self) -> Rgb:
        return NORMALIZATIONS[self.normalization][1]

    def dim(self, features: Features) -> int:
        """Width of the features (features.py says what they are). Raises ValueError for those that it does not have."""
        if features == "pooled":
            if self.feature_dim is None:
                raise ValueError(f"backbone {self.name!r}: only its code knows how wide its features are; build it")
            return self.feature_dim
        if features == "stages":
            if self.stages_dim is None:
                raise ValueError(f"backbone {self.name!r} has no features of stages; use features: pooled")
            return self.stages_dim
        tokens = self.transformer
        if tokens is None:
            raise ValueError(
                f"backbone {self.name!r} is no plain transformer (ViT, EVA) and has no features {features!r}; "
                "use features: pooled"
            )
        if features != "mean" and not tokens.class_token:
            raise ValueError(
                f"backbone {self.name!r} has no class token for features {features!r}; use features: pooled or mean"
            )
        return tokens.embed_dim * {"cls": 1, "mean": 1, "cls_mean": 2, "tokens": TOKEN_BLOCKS + 1}[features]

    def require_size(self, image_size_px: int) -> int:
        """The size, if the patches of a transformer fill it. Raises SizeDoesNotFit, which names the nearest that fit."""
        if self.transformer is None or image_size_px % self.transformer.patch_px == 0:
            return image_size_px
        patch_px = self.transformer.patch_px
        below = image_size_px // patch_px * patch_px
        near = " or ".join(str(size) for size in (below, below + patch_px) if size)
        raise SizeDoesNotFit(
            f"image_size_px {image_size_px} is no multiple of the {patch_px} px patches of {self.name!r}; use {near}"
        )

    def preprocessing(
        self, *, image_size_px: int | None = None, resize: Resize = "squash", box_margin: float | None = None
    ) -> Preprocessing:
        """The pixels this backbone was trained on; `squash` keeps the whole picture, so no crop is applied to it."""
        return Preprocessing(
            image_size_px=self.require_size(image_size_px or self.image_size_px),
            resize=resize,
            crop_fraction=self.crop_fraction if resize == "shorter_side" else 1.0,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            box_margin=box_margin,
        )


BACKBONES: dict[str, Backbone] = {entry["name"]: Backbone.model_validate(entry) for entry in ENTRIES}


def get_backbone(name: str) -> Backbone:
    """The record of a registered backbone, of `timm/<name>` (imports timm), or of a plug-in `module:callable`."""
    if name in BACKBONES:
        return BACKBONES[name]
    require_spelling(name)
    if PLUGIN_NAME.fullmatch(name):
        return _plugin(name)
    from platform_assets.vision.networks.timm_facts import read_backbone

    return read_backbone(name.removeprefix("timm/"), name=name)


def require_spelling(name: str) -> str:
    """The name, if it can be one of a backbone: what can be said of it without importing timm or a plug-in."""
    if name in BACKBONES or _TIMM_NAME.fullmatch(name) or PLUGIN_NAME.fullmatch(name):
        return name
    raise UnknownBackbone(
        f"backbone: {name!r} is not known; use one of {', '.join(sorted(BACKBONES))}, "
        "or timm/NAME for another model of timm"
    )


def known_now(name: str) -> Backbone | None:
    """The record, where it is had without importing anything; None for other models of timm."""
    return None if _TIMM_NAME.fullmatch(name) else get_backbone(name)


def _plugin(name: str) -> Backbone:
    """A network of the user's own. It gets ImageNet's statistics; one that wants others rescales its input itself."""
    return Backbone(
        name=name,
        timm_name=None,
        weights=None,
        normalization="imagenet",
        image_size_px=224,
        interpolation="bicubic",
        crop_fraction=0.875,
        feature_dim=None,
        licence="not stated",
        weights_licence=None,
        citation=f"The project's own code, {name}.",
    )
