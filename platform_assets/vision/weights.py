"""Backbones as torch modules with their weights: found, verified and converted. No training here."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from platform_assets.vision.backbones import Backbone, Features, PackagedWeights, get_backbone
from platform_assets.vision.baseline_cnn import BaselineCnn
from platform_assets.vision.stages import StageFeatures


class WeightsNotInstalled(ValueError):
    """The package that holds a backbone's weights is not installed."""


class WeightsChanged(ValueError):
    """A weights file is not, byte for byte, the one that the registry names."""


class WeightsDoNotFit(ValueError):
    """A weights file does not hold the tensors of its architecture."""


class NoPretrainedWeights(ValueError):
    """Pretrained weights are asked of a backbone that has none."""


def load_backbone(name: str, *, pretrained: bool, features: Features = "pooled") -> nn.Module:
    """Module of normalised images_bchw float32 to features_bd, on the CPU, in evaluation mode.

    Without `pretrained` the weights are random, drawn from torch's global generator: seed it first.
    """
    backbone = get_backbone(name)
    backbone.dim(features)
    if backbone.timm_name is None:
        if pretrained:
            raise NoPretrainedWeights(f"backbone {name!r} has no pretrained weights; use it with mode 'scratch'")
        return BaselineCnn().eval()
    model = _timm_classifier(backbone, pretrained=pretrained)
    cast(Any, model).reset_classifier(0)
    return (StageFeatures(model) if features == "stages" else model).eval()


def imagenet_classifier(name: str) -> nn.Module:
    """The backbone with its own ImageNet-1k head: normalised images_bchw to logits_bk, k = 1000, in evaluation mode."""
    backbone = get_backbone(name)
    if backbone.timm_name is None:
        raise NoPretrainedWeights(f"backbone {name!r} has no ImageNet head; use a pretrained one")
    return _timm_classifier(backbone, pretrained=True).eval()


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over every parameter and buffer: name, type, shape and little-endian bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{values.dtype}|{tuple(values.shape)}|".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _timm_classifier(backbone: Backbone, *, pretrained: bool) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(backbone.timm_name, pretrained=False)
    if pretrained:
        if backbone.weights is None:
            raise NoPretrainedWeights(
                f"backbone {backbone.name!r} has no pretrained weights; use it with mode 'scratch'"
            )
        path = _verified_file(backbone.weights)
        stored = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(_renamed(stored, model, path))
    return model


def _verified_file(weights: PackagedWeights) -> Path:
    """Path of the weights file, whose SHA-256 is checked before anything reads it."""
    # find_spec does not run the package's code, which these weights do not need.
    spec = importlib.util.find_spec(weights.package)
    if spec is None or spec.origin is None:
        raise WeightsNotInstalled(
            f"package {weights.package!r} is not installed; install the extra 'demo' of kestrel-vision"
        )
    path = Path(spec.origin).parent / weights.file
    if not path.is_file():
        raise WeightsNotInstalled(f"{path} is missing; install the package {weights.package!r} again")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != weights.sha256:
        raise WeightsChanged(
            f"{path}: SHA-256 is {found}, expected {weights.sha256}; install the package {weights.package!r} again"
        )
    return path


def _renamed(stored: dict[str, torch.Tensor], model: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """The file's tensors under timm's names; both list the same tensors in the same order, checked pair by pair."""
    expected = model.state_dict()
    if len(stored) != len(expected):
        raise WeightsDoNotFit(f"{path}: holds {len(stored)} tensors, timm's model has {len(expected)}")
    renamed = {}
    for (theirs, value), (ours, slot) in zip(stored.items(), expected.items(), strict=True):
        same_kind = theirs.rsplit(".", 1)[-1] == ours.rsplit(".", 1)[-1]
        if not same_kind or value.shape != slot.shape or value.dtype != slot.dtype:
            raise WeightsDoNotFit(
                f"{path}: tensor {theirs!r} {tuple(value.shape)} does not fit {ours!r} {tuple(slot.shape)} of timm"
            )
        renamed[ours] = value
    return renamed
