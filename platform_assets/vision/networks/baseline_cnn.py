"""The small residual network that every pretrained backbone has to beat; it trains from scratch in minutes on a CPU."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import nn

STAGE_WIDTHS = (32, 64, 128, 256)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016); halves the height and the width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=2, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        y_bchw = torch.relu(self.bn1(self.conv1(x_bchw)))
        return torch.relu(self.bn2(self.conv2(y_bchw)) + self.shortcut(x_bchw))


class BaselineCnn(nn.Module):
    """Normalised images_bchw float32 to features_bd, d = 256. 1.2 M parameters, any image size from 16 px."""

    def __init__(self) -> None:
        super().__init__()
        stem_width = STAGE_WIDTHS[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem_width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU()
        )
        self.blocks = nn.Sequential(*(ResidualBlock(narrow, wide) for narrow, wide in pairwise(STAGE_WIDTHS)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.blocks(self.stem(x_bchw)).mean(dim=(2, 3)))
