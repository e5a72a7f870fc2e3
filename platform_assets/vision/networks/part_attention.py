"""A vision transformer whose last block sees selected parts of the image. Which parts is part_selectors.py's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.eva import Eva, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from platform_assets.vision.networks.part_selectors import (
    READABLE_ATTENTION,
    AttentionProduct,
    GlobalSimilarity,
    Selector,
)
from platform_assets.vision.recipes.part_options import PartOptions
from platform_assets.vision.recipes.train_options import DoesNotTrain

# The cosine up to which images of different classes may be alike (TransFG's alpha).
MARGIN = 0.4
# What a selector may hold of the images that are read together where no backward pass holds it anyway. 2026-11: of
# ViT-B/16 at 448 px, stride 12, that is 46 MB an image, and a running product of whole maps would be 90 MB.
_KEPT_BYTES = 256 * 2**20


class PartsDoNotFit(DoesNotTrain):
    """A backbone, or images, on which parts cannot be selected as the options say."""


class PartAttention(nn.Module):
    """Normalised images_bchw float32 to features_bd: TransFG (He et al. 2022, arXiv 2103.07976) on a timm ViT.

    All blocks but the last read every patch; the last one, with its own pretrained weights, reads the prefix tokens
    (class token, registers) and the patches that the selector picks. Features are what the model's own attention pool
    makes of them, or else the class token, or else the mean over the picked patches.

    `model` is changed in place, after its weights are loaded: its classifier is removed, and its position embedding and
    patches are laid out for square images of `image_size_px` (its own size when None) at the options' stride.
    Raises PartsDoNotFit.
    """

    def __init__(self, model: nn.Module, options: PartOptions, *, image_size_px: int | None = None) -> None:
        super().__init__()
        _require_supported(model, options)
        self.model = model
        self.options = options
        _lay_out(model, options, image_size_px)
        cast(Any, model).reset_classifier(0)
        self.grid: tuple[int, int] = cast(Any, model).patch_embed.grid_size

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        found = [self._features(some_bchw) for some_bchw in self._read_together(images_bchw)]
        return torch.cat(found) if len(found) > 1 else found[0]

    def _features(self, images_bchw: torch.Tensor) -> torch.Tensor:
        tokens_bnd, rope, indices_bs = self._before_last_block(images_bchw)
        model: Any = self.model
        prefix_bpd, patches_bnd = tokens_bnd.tensor_split([model.num_prefix_tokens], dim=1)
        parts_bsd = patches_bnd.gather(1, indices_bs[..., None].expand(-1, -1, patches_bnd.shape[-1]))
        tokens_btd = self._run(
            model.blocks[-1], torch.cat([prefix_bpd, parts_bsd], dim=1), _rope_of_parts(rope, indices_bs)
        )
        return cast(torch.Tensor, model.fc_norm(self._pooled(model.norm(tokens_btd))))

    @torch.no_grad()
    def selected(self, images_bchw: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """indices_bs of the picked patches, row by row from 0, and the grid they count in (rows, columns)."""
        pieces = [self._before_last_block(some_bchw)[2] for some_bchw in self._read_together(images_bchw)]
        return torch.cat(pieces), self.grid

    def auxiliary_loss(self, features_bd: torch.Tensor, labels_b: torch.Tensor) -> torch.Tensor:
        """The contrastive loss at the options' weight."""
        return self.options.contrast_weight * contrastive_loss(features_bd, labels_b)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        cast(Any, self.model).set_grad_checkpointing(enable)

    def _read_together(self, images_bchw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All images in training, whose backward pass keeps every block's tokens; else as many as _KEPT_BYTES allow."""
        if self.options.selector == "glsim" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return (images_bchw,)
        model: Any = self.model
        tokens = model.num_prefix_tokens + model.patch_embed.num_patches
        of_an_image = (len(model.blocks) - 1) * tokens * model.embed_dim * images_bchw.element_size()
        return tuple(torch.split(images_bchw, max(1, _KEPT_BYTES // of_an_image)))

    def _before_last_block(self, images_bchw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Tokens before the last block, that block's rotary embedding, and the picked patches."""
        _require_size(self.model, images_bchw)
        model: Any = self.model
        embedded = model._pos_embed(model.patch_embed(images_bchw))
        tokens_bnd, rope = embedded if isinstance(embedded, tuple) else (embedded, None)
        tokens_bnd = model.norm_pre(tokens_bnd)
        # Mixed rotary embeddings have one for every block.
        ropes = rope if getattr(model, "rope_mixed", False) else [rope] * len(model.blocks)
        selector = _selector(model, self.options)
        for block, block_rope in zip(model.blocks[:-1], ropes[:-1], strict=True):
            selector.see(block, tokens_bnd, block_rope)
            tokens_bnd = self._run(block, tokens_bnd, block_rope)
        return tokens_bnd, ropes[-1], selector.choose(tokens_bnd)

    def _run(self, block: nn.Module, tokens_bnd: torch.Tensor, rope: torch.Tensor | None) -> torch.Tensor:
        read: Callable[[torch.Tensor], torch.Tensor] = block if rope is None else partial(block, rope=rope)
        if cast(Any, self.model).grad_checkpointing:
            return checkpoint(read, tokens_bnd, use_reentrant=False)
        return read(tokens_bnd)

    def _pooled(self, tokens_btd: torch.Tensor) -> torch.Tensor:
        model: Any = self.model
        takes_class_token = model.attn_pool is None and model.cls_token is not None
        return cast(torch.Tensor, model.pool(tokens_btd, "token" if takes_class_token else None))


def contrastive_loss(features_bd: torch.Tensor, labels_b: torch.Tensor) -> torch.Tensor:
    """TransFG's: mean over all B x B pairs of 1 - cosine in one class, of max(cosine - MARGIN, 0) across classes."""
    precise_bd = features_bd.to(torch.promote_types(features_bd.dtype, torch.float32))
    with torch.autocast(features_bd.device.type, enabled=False):
        unit_bd = nn.functional.normalize(precise_bd, dim=-1)
        cosine_bb = unit_bd @ unit_bd.T
        same_bb = labels_b[:, None] == labels_b[None, :]
        return torch.where(same_bb, 1 - cosine_bb, (cosine_bb - MARGIN).clamp(min=0)).mean()


def _selector(model: Any, options: PartOptions) -> Selector:
    prefix_tokens, class_token = model.num_prefix_tokens, model.cls_token is not None
    if options.selector == "glsim":
        return GlobalSimilarity(prefix_tokens=prefix_tokens, class_token=class_token, top_k=options.top_k)
    return AttentionProduct(prefix_tokens=prefix_tokens, class_token=class_token, residual=options.residual)


def _rope_of_parts(rope: torch.Tensor | None, indices_bs: torch.Tensor) -> torch.Tensor | None:
    """The rotations of the picked patches as [b, heads or 1, s, d]: a part keeps its place in the picture."""
    if rope is None:
        return None
    picked = rope[..., indices_bs, :]
    return picked[:, None] if rope.ndim == 2 else picked.transpose(0, 1)


def _lay_out(model: Any, options: PartOptions, image_size_px: int | None) -> None:
    """Patches every `stride_px` pixels, on a grid of (side - patch) // stride + 1, from one resampling of the positions."""
    embed = model.patch_embed
    trained_grid = embed.grid_size
    embed.img_size = (image_size_px, image_size_px) if image_size_px else embed.img_size
    embed.proj.stride = (options.stride_px, options.stride_px) if options.stride_px else embed.proj.stride
    sizes = zip(embed.img_size, embed.patch_size, embed.proj.stride, strict=True)
    embed.grid_size = tuple((side - patch) // stride + 1 for side, patch, stride in sizes)
    embed.num_patches = embed.grid_size[0] * embed.grid_size[1]
    _require_enough_patches(model, options)
    embed.strict_img_size, embed.dynamic_img_pad = True, False
    if model.pos_embed is not None and embed.grid_size != trained_grid:
        positions_1nd = resample_abs_pos_embed(
            model.pos_embed.detach(),
            new_size=list(embed.grid_size),
            old_size=list(trained_grid),
            num_prefix_tokens=0 if model.no_embed_class else model.num_prefix_tokens,
        )
        model.pos_embed = nn.Parameter(positions_1nd, requires_grad=model.pos_embed.requires_grad)
    rope = getattr(model, "rope", None)
    if rope is None:
        # The size is fixed from here on: no resampling in every forward pass.
        model.dynamic_img_size, embed.flatten = False, True
    elif hasattr(rope, "update_feat_shape"):
        rope.update_feat_shape(embed.grid_size)


def _require_supported(model: nn.Module, options: PartOptions) -> None:
    if not isinstance(model, VisionTransformer | Eva) or type(model.patch_embed) is not PatchEmbed:
        raise PartsDoNotFit(
            f"backbone {_name(model)!r} is not a plain vision transformer of timm, and parts are patches of one; "
            "remove 'parts' or choose a ViT, DeiT, DINOv2, DINOv3, EVA or SigLIP"
        )
    blocks = list(model.blocks)
    if len(blocks) < 2:
        raise PartsDoNotFit(f"backbone {_name(model)!r} has {len(blocks)} block; selecting parts takes two or more")
    readable = all(type(block) in (Block, EvaBlock) and type(block.attn) in READABLE_ATTENTION for block in blocks)
    if options.selector == "transfg" and not readable:
        raise PartsDoNotFit(
            f"backbone {_name(model)!r} has blocks of {type(blocks[0]).__name__}, whose attention maps cannot be read; "
            "use selector: glsim"
        )
    patch_px = min(model.patch_embed.patch_size)
    if options.stride_px is not None and options.stride_px > patch_px:
        raise PartsDoNotFit(
            f"stride_px {options.stride_px} is more than the {patch_px} pixels of a patch of {_name(model)!r}, so pixels "
            "between patches would not be seen; lower it"
        )


def _require_enough_patches(model: Any, options: PartOptions) -> None:
    patches = model.patch_embed.num_patches
    if min(model.patch_embed.grid_size) < 1:
        raise PartsDoNotFit(
            f"images of {model.patch_embed.img_size} pixels hold no patch of {model.patch_embed.patch_size} of backbone "
            f"{_name(model)!r}; raise image_size_px"
        )
    if options.selector == "glsim" and options.top_k > patches:
        raise PartsDoNotFit(
            f"top_k {options.top_k} is more than the {patches} patches of backbone {_name(model)!r} at this size; lower it"
        )


def _require_size(model: Any, images_bchw: torch.Tensor) -> None:
    given, wanted = tuple(images_bchw.shape[2:]), tuple(model.patch_embed.img_size)
    if given != wanted:
        raise PartsDoNotFit(
            f"images of {given} pixels do not fit the parts of {_name(model)!r}, laid out for {wanted}; "
            "build it with this image_size_px"
        )


def _name(model: nn.Module) -> str:
    named = getattr(model, "pretrained_cfg", None) or {}
    return str(named.get("architecture") or type(model).__name__)
