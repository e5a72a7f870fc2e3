"""The network that is trained, exported and served: pixels to logits, with the normalisation inside."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from platform_assets.vision.backbones import Features, get_backbone
from platform_assets.vision.devices import Device, choose_device
from platform_assets.vision.preprocessing import Preprocessing
from platform_assets.vision.weights import load_backbone


class HeadDoesNotFit(ValueError):
    """A head has another shape than the classifier's."""


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
        self.head = nn.Linear(get_backbone(backbone_name).dim(features), num_classes)
        self.register_buffer("mean", _per_channel(preprocessing.mean), persistent=False)
        self.register_buffer("std", _per_channel(preprocessing.std), persistent=False)

    def features(self, images_bchw: torch.Tensor) -> torch.Tensor:
        """The backbone's features_bd, of the kind that `feature_kind` names."""
        normalised_bchw = (images_bchw.float() / 255.0 - self.mean) / self.std
        return cast(torch.Tensor, self.backbone(normalised_bchw))

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(self.features(images_bchw)))

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def set_head(self, weight_kd: torch.Tensor, bias_k: torch.Tensor) -> None:
        """Take over a head fitted elsewhere, such as a linear probe on this backbone's features."""
        wanted, given = tuple(self.head.weight.shape), tuple(weight_kd.shape)
        if given != wanted or tuple(bias_k.shape) != wanted[:1]:
            raise HeadDoesNotFit(
                f"head of {self.backbone_name}: weight {given} and bias {tuple(bias_k.shape)} do not fit "
                f"{wanted} and {wanted[:1]}; fit it on this backbone's features and label map"
            )
        with torch.no_grad():
            self.head.weight.copy_(weight_kd)
            self.head.bias.copy_(bias_k)


def build_classifier(
    backbone: str,
    num_classes: int,
    preprocessing: Preprocessing,
    *,
    pretrained: bool,
    seed: int,
    features: Features = "pooled",
) -> Classifier:
    """A classifier on the CPU in evaluation mode; what is random in it follows from `seed` alone."""
    if num_classes < 2:
        raise HeadDoesNotFit(f"{num_classes} classes: a classifier needs two or more; look at the label map")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(
            load_backbone(backbone, pretrained=pretrained, features=features),
            backbone_name=backbone,
            num_classes=num_classes,
            preprocessing=preprocessing,
            features=features,
        )
    return classifier.eval()


def place(classifier: Classifier, device: Device) -> Classifier:
    """The same classifier, moved to `device` and laid out in memory as is fastest there."""
    if choose_device(device).channels_last:
        # nn.Module.to has no overload for both at once.
        return classifier.to(device).to(memory_format=torch.channels_last)
    return classifier.to(device)


def _per_channel(values: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1)
