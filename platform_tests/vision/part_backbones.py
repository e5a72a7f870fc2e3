"""Small vision transformers of timm, one of each kind that part attention must read, with weights that make a difference."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

SIDE_PX = 64
_TINY = {"depth": 3, "embed_dim": 32, "num_heads": 2, "num_classes": 0}

# What each adds to a ViT with a class token: no class token and a register, attention pooling, root mean square norms,
# registers beside the class token and layer scale; rotary positions without, beside and instead of learned ones.
NAMES = {
    "test_vit": 64,
    "test_vit2": 64,
    "test_vit3": 64,
    "test_vit4": 64,
    "vit_small_patch14_reg4_dinov2": 70,
    "vit_base_patch16_siglip_224": 64,
    "deit_tiny_distilled_patch16_224": 64,
    "vit_small_patch16_dinov3": 64,
    "eva02_tiny_patch14_224": 70,
    "vit_base_patch16_rope_mixed_224": 64,
}


def tiny(name: str, *, seed: int = 0, **changes: Any) -> nn.Module:
    """In float64 and evaluation mode. timm's own start has nearly uniform attention, in which nothing is picked for a reason."""
    options: dict[str, Any] = {**_TINY, "img_size": NAMES.get(name, SIDE_PX), **changes}
    model: nn.Module = timm.create_model(name, **options).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.copy_(spread * 0.3 if parameter.ndim > 1 else 1 + spread * 0.1)
    return model


def images(model: nn.Module, count: int = 3, *, seed: int = 1) -> torch.Tensor:
    """Normalised noise images_bchw at the size of the model."""
    size: Any = model.get_submodule("patch_embed").img_size
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
