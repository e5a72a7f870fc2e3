"""What timm itself says of one of its models, as a record of the registry; imports timm and torch when it is asked."""

from __future__ import annotations

import difflib
import inspect
from functools import cache
from typing import Any

from platform_assets.vision.recipes.backbones import (
    NORMALIZATIONS,
    Backbone,
    HubWeights,
    Normalization,
    Transformer,
    UnknownBackbone,
)


@cache
def read_backbone(timm_name: str, *, name: str) -> Backbone:
    """The record of a model under the name it is asked by, from timm's configuration and a build without memory.

    Raises UnknownBackbone for a name that timm has not, for a model whose pixels we cannot make, and for one that gives
    no vector.
    """
    import timm
    import torch

    config = _config(timm_name)
    channels, height, width = config.input_size
    if channels != 3 or height != width or config.interpolation not in ("bicubic", "bilinear"):
        raise UnknownBackbone(
            f"backbone: {timm_name!r} of timm takes {config.input_size} by {config.interpolation}; "
            "only square RGB by bicubic or bilinear is supported"
        )
    with torch.device("meta"):
        model = timm.create_model(timm_name, num_classes=0).eval()
        _require_vector(timm_name, model, torch.zeros(1, 3, height, width))
    return Backbone(
        name=name,
        timm_name=timm_name,
        weights=None,
        hub=HubWeights(repo=config.hf_hub_id) if config.hf_hub_id else None,
        normalization=_normalization(timm_name, config.mean, config.std),
        image_size_px=height,
        interpolation=config.interpolation,
        crop_fraction=config.crop_pct,
        feature_dim=model.head_hidden_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        transformer=_transformer(model),
        licence="Apache-2.0",
        weights_licence=config.license or "not stated",
        citation=f"Wightman, PyTorch Image Models (timm), model {timm_name}.",
    )


def _config(timm_name: str) -> Any:
    import timm

    try:
        config = timm.get_pretrained_cfg(timm_name)
    except RuntimeError:  # timm knows the architecture and not the tag
        config = None
    if config is None or not timm.is_model(timm_name):
        near = difflib.get_close_matches(timm_name, [*timm.list_pretrained(), *timm.list_models()], n=3)
        said = " or ".join(near) or "one of timm.list_models()"
        raise UnknownBackbone(f"backbone: timm has no model {timm_name!r}; did you mean {said}?")
    return config


def _normalization(timm_name: str, mean: Any, std: Any) -> Normalization:
    for name, known in NORMALIZATIONS.items():
        if known == (tuple(mean), tuple(std)):
            return name
    raise UnknownBackbone(
        f"backbone: {timm_name!r} of timm wants mean {mean} and std {std}, which has no name here; use another"
    )


def _transformer(model: Any) -> Transformer | None:
    """The tokens of a model, if it is one sequence of patches through equal blocks, in a grid that may have any size."""
    tokens = ("patch_embed", "blocks", "num_prefix_tokens", "embed_dim", "cls_token")
    if not all(hasattr(model, name) for name in tokens) or not _takes_any_grid(model):
        return None
    class_token = model.cls_token is not None
    return Transformer(
        patch_px=model.patch_embed.patch_size[0],
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        heads=model.blocks[0].attn.num_heads,
        class_token=class_token,
        register_tokens=model.num_prefix_tokens - int(class_token),
    )


def _takes_any_grid(model: Any) -> bool:
    """Whether its class has the option by which timm's plain transformers (ViT, EVA) are built for a size."""
    taken = inspect.signature(type(model).__init__).parameters.values()
    return any(each.name == "dynamic_img_size" or each.kind is each.VAR_KEYWORD for each in taken)


def _require_vector(timm_name: str, model: Any, images_bchw: Any) -> None:
    """Its classifiers make one, and only its encoders are looked at: some networks take ten seconds without memory too."""
    if hasattr(model, "reset_classifier"):
        return
    shape = tuple(model(images_bchw).shape)
    if shape != (1, model.head_hidden_size):
        raise UnknownBackbone(f"backbone: {timm_name!r} of timm makes {shape} of an image and no vector; use another")
