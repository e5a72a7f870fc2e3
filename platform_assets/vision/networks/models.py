"""The network that is trained, exported and served: pixels to logits, with the normalisation inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from platform_assets.vision.machine.devices import Device, choose_device
from platform_assets.vision.networks.plugins import check_plugin
from platform_assets.vision.networks.weight_files import WeightsChanged
from platform_assets.vision.networks.weights import load_backbone
from platform_assets.vision.recipes.backbones import Features, get_backbone
from platform_assets.vision.recipes.part_options import PartOptions
from platform_assets.vision.recipes.preprocessing import Preprocessing

if TYPE_CHECKING:
    from platform_assets.vision.networks.weight_files import WeightsFile
    from platform_assets.vision.recipes.resolving import ResolvedTrial


class HeadDoesNotFit(ValueError):
    """A classifier of fewer than two classes."""


class Classifier(nn.Module):
    """uint8 RGB images_bchw, already at the size of `preprocessing`, to logits_bk float32.

    Mean and std are constants of the graph, taken from `preprocessing` and not stored with the weights.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        backbone_name: str,
        num_classes: int,
        preprocessing: Preprocessing,
        features: Features = "pooled",
    ) -> None:
        super().__init__()
        self.backbone_name = backbone_name
        self.num_classes = num_classes
        self.preprocessing = preprocessing
        self.feature_kind = features
        self.backbone = backbone
        self.head: nn.Module = nn.Linear(_width(backbone, backbone_name, features), num_classes)
        self.register_buffer("mean", _per_channel(preprocessing.mean), persistent=False)
        self.register_buffer("std", _per_channel(preprocessing.std), persistent=False)

    def features(self, images_bchw: torch.Tensor) -> torch.Tensor:
        """The backbone's features_bd, of the kind that `feature_kind` names."""
        return cast(torch.Tensor, self.backbone(self.normalised(images_bchw)))

    def normalised(self, images_bchw: torch.Tensor) -> torch.Tensor:
        """What the backbone is given: float32, by `mean` and `std`."""
        return (images_bchw.float() / 255.0 - self.mean) / self.std

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.features(images_bchw)))

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def build_classifier(
    backbone: str,
    num_classes: int,
    preprocessing: Preprocessing,
    *,
    pretrained: bool,
    seed: int,
    features: Features = "pooled",
    weights: Path | None = None,
    parts: PartOptions | None = None,
) -> Classifier:
    """A classifier on the CPU in evaluation mode; what is random in it follows from `seed` alone.

    `weights` is the file of the pretrained weights, where no package holds them (weight_files.py).
    """
    if num_classes < 2:
        raise HeadDoesNotFit(f"{num_classes} classes: a classifier needs two or more; look at the label map")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(
            load_backbone(
                backbone,
                pretrained=pretrained,
                features=features,
                image_size_px=preprocessing.image_size_px,
                weights=weights,
                parts=parts,
            ),
            backbone_name=backbone,
            num_classes=num_classes,
            preprocessing=preprocessing,
            features=features,
        )
    return classifier.eval()


def initial_classifier(trial: ResolvedTrial, num_classes: int, weights: WeightsFile | None) -> Classifier:
    """What a trial starts from: `weights` is `weights_of` its variant, None where a package holds them or they are random.

    Raises WeightsChanged when the bytes are not those that the trial was resolved with, and BadPlugin.
    """
    backbone = get_backbone(trial.backbone)
    packaged = backbone.weights.sha256 if backbone.weights and trial.pretrained_sha256 else None
    given = weights.sha256 if weights else packaged
    if given != trial.pretrained_sha256:
        raise WeightsChanged(
            f"trial {trial.trial} starts from weights of SHA-256 {trial.pretrained_sha256}, given is {given} "
            f"({weights.path if weights else 'no file'}); find them with weight_files.weights_of and resolve the trial again"
        )
    if backbone.is_plugin:
        check_plugin(trial.backbone, image_size_px=trial.preprocessing.image_size_px)
    return build_classifier(
        trial.backbone,
        num_classes,
        trial.preprocessing,
        pretrained=trial.pretrained_sha256 is not None,
        seed=trial.seed,
        features=trial.features,
        weights=weights.file if weights else None,
        parts=trial.parts,
    )


def place(classifier: Classifier, device: Device) -> Classifier:
    """The same classifier, moved to `device` and laid out in memory as is fastest there."""
    if choose_device(device).channels_last:
        # nn.Module.to has no overload for both at once.
        return classifier.to(device).to(memory_format=torch.channels_last)
    return classifier.to(device)


def _width(backbone: nn.Module, name: str, features: Features) -> int:
    """That of the record; a plug-in states its own."""
    known = get_backbone(name)
    return cast(int, backbone.feature_dim) if known.is_plugin else known.dim(features)


def _per_channel(values: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1)
