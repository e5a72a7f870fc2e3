"""What is read off a backbone: its pooled last layer, the inner stages of a CNN, or the tokens of a transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from platform_assets.vision.networks.stages import StageFeatures
from platform_assets.vision.recipes.backbones import TOKEN_BLOCKS

if TYPE_CHECKING:
    from platform_assets.vision.recipes.backbones import Backbone, Features


class FeaturesNotThere(ValueError):
    """A backbone has no such features."""


def features_module(model: nn.Module, backbone: Backbone, features: Features) -> nn.Module:
    """Normalised images_bchw to features_bd, from a timm `model` without classifier.

    Raises FeaturesNotThere where the model has no tokens, no class token or too few blocks.
    """
    if features == "pooled":
        return model
    if features == "stages":
        return StageFeatures(model)
    return TokenFeatures(model, features, name=backbone.name)


class TokenFeatures(nn.Module):
    """Normalised images_bchw to features_bd of a timm vision transformer, every token through its final norm.

    `cls` is the class token of the last block, `mean` the mean of its patch tokens (prefix and register tokens are not
    patches), `cls_mean` both. `tokens` are the class tokens of the last four blocks, from the lowest up, then that
    mean: what DINOv2's linear evaluation chooses from (Oquab et al. 2023, arXiv 2304.07193).
    """

    def __init__(self, model: nn.Module, features: Features, *, name: str) -> None:
        super().__init__()
        prefix: int | None = getattr(model, "num_prefix_tokens", None)
        if prefix is None or not hasattr(model, "forward_intermediates"):
            raise FeaturesNotThere(
                f"features {features!r}: backbone {name!r} has no tokens, it is no transformer; use pooled"
            )
        # Not `prefix > 0`: there are backbones with register tokens alone.
        if features != "mean" and getattr(model, "cls_token", None) is None:
            raise FeaturesNotThere(f"features {features!r}: backbone {name!r} has no class token; use mean or pooled")
        self.model = model
        self.blocks = TOKEN_BLOCKS if features == "tokens" else 1
        self.with_class_tokens, self.with_mean = features != "mean", features != "cls"
        self.has_prefix = prefix > 0
        depth = len(model.get_submodule("blocks"))  # type: ignore[arg-type]
        if depth < self.blocks:
            raise FeaturesNotThere(
                f"features {features!r} read {self.blocks} blocks, backbone {name!r} has {depth}; use cls_mean"
            )

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        found = model.forward_intermediates(
            images_bchw,
            indices=self.blocks,
            return_prefix_tokens=self.has_prefix,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        vectors = [prefix_bnd[:, 0] for _, prefix_bnd in found] if self.with_class_tokens else []
        if self.with_mean:
            patches_bnd = found[-1][0] if self.has_prefix else found[-1]
            vectors.append(patches_bnd.mean(1))
        # Where timm pools before its final norm, this is that norm; elsewhere it changes nothing.
        return torch.cat([model.fc_norm(vector_bd) for vector_bd in vectors], dim=1)
