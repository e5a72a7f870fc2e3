"""Features of the inner stages of an EfficientNet: what a probe sees beside the last layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Stages 1 and 2 added nothing on elpv and cost a point on grocery (docs/log.md).
FIRST_STAGE = 3


class StageFeatures(nn.Module):
    """Normalised images_bchw to features_bd: mean and standard deviation over space of stages 3 on, then the pooled head.

    `model` is a timm EfficientNet without classifier. Means of inner stages after Alain and Bengio 2016 (arXiv
    1610.01644); their standard deviation adds texture, as in style statistics (Gatys et al. 2016).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        maps_bchw = model.bn1(model.conv_stem(images_bchw))
        found = []
        for number, stage in enumerate(model.blocks):
            maps_bchw = stage(maps_bchw)
            if number >= FIRST_STAGE:
                found += [maps_bchw.mean((2, 3)), _spatial_std(maps_bchw)]
        found.append(model.bn2(model.conv_head(maps_bchw)).mean((2, 3)))
        return torch.cat(found, dim=1)


def _spatial_std(maps_bchw: torch.Tensor) -> torch.Tensor:
    """Written out, so that every engine computes it alike; the floor keeps the gradient finite on constant maps."""
    centred_bchw = maps_bchw - maps_bchw.mean((2, 3), keepdim=True)
    return centred_bchw.square().mean((2, 3)).clamp(min=1e-12).sqrt()
