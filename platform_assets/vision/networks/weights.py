"""Backbones as torch modules with their weights: built, read, compared tensor by tensor, converted. No training here."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from platform_assets.vision.networks.baseline_cnn import BaselineCnn
from platform_assets.vision.networks.features import features_module
from platform_assets.vision.networks.plugins import build_plugin
from platform_assets.vision.networks.tensor_files import read_tensors
from platform_assets.vision.networks.weight_files import NoPretrainedWeights, verified_package
from platform_assets.vision.recipes.backbones import Backbone, Features, SizeDoesNotFit, get_backbone
from platform_assets.vision.recipes.part_options import PartOptions

Tensors = dict[str, torch.Tensor]

_PATCHES = "patch_embed.proj.weight"
_SHOWN = 5


class WeightsDoNotFit(ValueError):
    """A weights file does not hold the tensors of its architecture."""


def load_backbone(
    name: str,
    *,
    pretrained: bool,
    features: Features = "pooled",
    image_size_px: int | None = None,
    weights: Path | None = None,
    parts: PartOptions | None = None,
) -> nn.Module:
    """Module of normalised images_bchw float32 to features_bd, on the CPU, in evaluation mode.

    A transformer is built for `image_size_px`, else for its native size; the position embeddings of another grid are
    resampled. `weights` is the file of weight_files.py, needed for all weights that no package holds. Without
    `pretrained` the weights are random, drawn from torch's global generator: seed it first. With `parts` its last block
    sees parts of the image.

    Raises WeightsDoNotFit, BadTensorFile, NoPretrainedWeights, SizeDoesNotFit, PartsDoNotFit.
    """
    backbone = get_backbone(name)
    if not backbone.is_plugin:
        backbone.dim(features)
    size_px = backbone.require_size(image_size_px or backbone.image_size_px)
    if pretrained and weights is None:
        model = _without_head(_packaged_classifier(backbone))
    else:
        model = _untrained(backbone, size_px)
        if pretrained and weights is not None:
            model.load_state_dict(fitting_tensors(model, weights, backbone=backbone))
    if parts is not None:
        from platform_assets.vision.networks.part_attention import PartAttention

        return PartAttention(model, parts, image_size_px=size_px).eval()
    return features_module(model, backbone, features).eval()


def imagenet_classifier(name: str) -> nn.Module:
    """The backbone with its own ImageNet-1k head: normalised images_bchw to logits_bk, k = 1000, in evaluation mode."""
    backbone = get_backbone(name)
    if backbone.weights is None:
        raise NoPretrainedWeights(f"backbone {name!r} has no ImageNet head; use a packaged one")
    return _packaged_classifier(backbone).eval()


def weights_sha256(module: nn.Module) -> str:
    """SHA-256 over every parameter and buffer: name, type, shape and little-endian bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{values.dtype}|{tuple(values.shape)}|".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def require_fit(backbone: Backbone, path: Path) -> None:
    """Compare a file with the architecture, without memory for its weights. Raises WeightsDoNotFit, BadTensorFile."""
    if backbone.weights is not None and path == verified_package(backbone.weights):
        with torch.device("meta"):
            model = _timm_model(backbone, {})
        _in_order(read_tensors(path), model, path)
        return
    with torch.device("meta"):
        model = _untrained(backbone, backbone.image_size_px)
    fitting_tensors(model, path, backbone=backbone)


def fitting_tensors(model: nn.Module, path: Path, *, backbone: Backbone) -> Tensors:
    """A file's tensors as a network without head takes them; those of a classifier in the file are left out.

    The names are the network's own, those of a checkpoint of ours, or of a publisher's format that timm converts.
    Raises WeightsDoNotFit, BadTensorFile.
    """
    stored = _without_classifier(_unwrapped(read_tensors(path)), model)
    slots = model.state_dict()
    _require_patches(stored, slots, path, backbone)
    if stored.keys() != slots.keys() or _shapes(stored).items() ^ _shapes(slots).items():
        stored = _without_classifier(_converted(stored, model), model)
    wrong = differences(stored, slots)
    if wrong:
        raise WeightsDoNotFit(
            f"{path} does not fit backbone {backbone.name!r}: {'; '.join(wrong[:_SHOWN])} ({len(wrong)} in all); "
            "name a file of this architecture, with timm's tensor names"
        )
    return stored


def differences(found: Tensors, wanted: Tensors) -> list[str]:
    """What keeps tensors from being those of an architecture, one sentence each, sorted."""
    wrong = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    wrong += [f"{name} is not expected" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        if found[name].shape != wanted[name].shape:
            wrong.append(f"{name} is {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}")
    return sorted(wrong)


def _untrained(backbone: Backbone, image_size_px: int) -> nn.Module:
    """The network without a head, freshly drawn."""
    if backbone.is_plugin:
        return build_plugin(backbone.name, image_size_px=image_size_px)
    if backbone.timm_name is None:
        return BaselineCnn()
    if backbone.weights is not None:
        # With the head, as ever: without it the generator stands elsewhere, and a seed gives another network.
        return _without_head(_timm_model(backbone, {}))
    if backbone.transformer is not None:
        options = {"num_classes": 0, "img_size": (image_size_px, image_size_px), "dynamic_img_size": False}
        try:
            return _timm_model(backbone, options)
        except AssertionError as error:  # a stem of convolutions that leaves no whole patches
            raise _does_not_fit(backbone, image_size_px, error) from error
    if image_size_px != backbone.image_size_px and _is_built_for_one_size(backbone):
        return _resized(backbone, image_size_px)
    return _timm_model(backbone, {"num_classes": 0})


def _is_built_for_one_size(backbone: Backbone) -> bool:
    import timm

    return bool(timm.get_pretrained_cfg(backbone.timm_name).fixed_input_size)


def _resized(backbone: Backbone, image_size_px: int) -> nn.Module:
    """Windows and pyramids have rules of their own about sizes, so one picture is tried."""
    side = (image_size_px, image_size_px)
    try:
        model = _timm_model(backbone, {"num_classes": 0, "img_size": side})
        with torch.inference_mode():
            model.eval()(next(model.parameters()).new_zeros(1, 3, *side))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _does_not_fit(backbone, image_size_px, error) from error
    return model


def _does_not_fit(backbone: Backbone, image_size_px: int, error: Exception) -> SizeDoesNotFit:
    return SizeDoesNotFit(
        f"image_size_px {image_size_px} does not fit backbone {backbone.name!r} ({str(error) or type(error).__name__}); "
        f"use its native {backbone.image_size_px}"
    )


def _timm_model(backbone: Backbone, options: dict[str, Any]) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(backbone.timm_name, pretrained=False, **options)
    return model


def _without_head(model: nn.Module) -> nn.Module:
    cast(Any, model).reset_classifier(0)
    return model


def _packaged_classifier(backbone: Backbone) -> nn.Module:
    if backbone.weights is None:
        cure = "find its file with weight_files.find_weights" if backbone.hub else "use it with mode 'scratch'"
        raise NoPretrainedWeights(f"backbone {backbone.name!r} has no pretrained weights in a package; {cure}")
    path = verified_package(backbone.weights)
    model = _timm_model(backbone, {})
    model.load_state_dict(_in_order(read_tensors(path), model, path))
    return model


def _in_order(stored: Tensors, model: nn.Module, path: Path) -> Tensors:
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


def _unwrapped(stored: Tensors) -> Tensors:
    """The backbone's tensors of one of our checkpoints; any other file's as they are."""
    if not all(name.startswith(("backbone.", "head.")) for name in stored):
        return stored
    return {name.removeprefix("backbone."): value for name, value in stored.items() if name.startswith("backbone.")}


def _without_classifier(stored: Tensors, model: nn.Module) -> Tensors:
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or "head"
    heads = (names,) if isinstance(names, str) else tuple(names)
    dropped = {f"{head}.{kind}" for head in heads for kind in ("weight", "bias")}
    return {name: value for name, value in stored.items() if name not in dropped}


def _require_patches(stored: Tensors, slots: Tensors, path: Path, backbone: Backbone) -> None:
    """timm would resample patch kernels of another size without a word, and the network would not be the one named."""
    if _PATCHES in stored and _PATCHES in slots and stored[_PATCHES].ndim == slots[_PATCHES].ndim:
        given, wanted = tuple(stored[_PATCHES].shape), tuple(slots[_PATCHES].shape)
        if given != wanted:
            raise WeightsDoNotFit(
                f"{path} does not fit backbone {backbone.name!r}: {_PATCHES} is {given} instead of {wanted}; "
                "the file is of another architecture"
            )


def _converted(stored: Tensors, model: nn.Module) -> Tensors:
    """As timm itself loads them: names of publishers' formats changed, position embeddings of another grid resampled.

    Where timm cannot, the tensors come back as they were, for the comparison to name what is wrong.
    """
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return stored
    try:
        found: Tensors = convert(stored, model)
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return stored
    return found


def _shapes(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}
