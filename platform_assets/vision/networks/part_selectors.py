"""Which patches are the parts of an image: by TransFG's product of attention maps or by GLSim's similarity."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention
from torch import nn

READABLE_ATTENTION = (Attention, AttentionRope, EvaAttention)

# Query rows of a map that exist at one time: the map of a block is multiplied away in pieces of this height.
_ROWS = 256


class Selector(Protocol):
    """Picks the parts of the images of one forward pass; every pass has its own selector."""

    def see(self, block: nn.Module, tokens_bnd: torch.Tensor, rope: torch.Tensor | None) -> None:
        """Hear of each block but the last, in order, with the tokens and the rotary embedding that it reads."""

    def choose(self, tokens_bnd: torch.Tensor) -> torch.Tensor:
        """indices_bs of patches, from 0, given the tokens that the last block would read."""


class AttentionProduct:
    """One patch a head: where the query row of the product of all maps, highest block first, is largest (TransFG).

    The maps are softmax(QK'/sqrt(d)) as attention applies them, before dropout; heads stay apart and one patch may be
    picked by several. Only the query row is wanted, so the product is taken from the last map down, a row at a time;
    what is kept until then are the tokens, which the backward pass keeps anyway, and never a map.
    """

    def __init__(self, *, prefix_tokens: int, class_token: bool, residual: bool) -> None:
        self._prefix_tokens = prefix_tokens
        self._class_token = class_token
        self._residual = residual
        self._seen: list[tuple[nn.Module, torch.Tensor, torch.Tensor | None]] = []

    def see(self, block: nn.Module, tokens_bnd: torch.Tensor, rope: torch.Tensor | None) -> None:
        self._seen.append((block, tokens_bnd.detach(), rope))

    @torch.no_grad()
    def choose(self, tokens_bnd: torch.Tensor) -> torch.Tensor:
        return self.row(tokens_bnd)[..., self._prefix_tokens :].argmax(dim=-1)

    @torch.no_grad()
    def row(self, tokens_bnd: torch.Tensor) -> torch.Tensor:
        """row_bhn of the product: how much the query has read of each token, prefix tokens included."""
        row_bhn = query_weights(tokens_bnd, self._prefix_tokens, class_token=self._class_token)[None, None]
        for block, seen_bnd, rope in reversed(self._seen):
            queries_bhnd, keys_bhnd = queries_and_keys(block, seen_bnd, rope)
            with torch.autocast(tokens_bnd.device.type, enabled=False):
                read_bhn = _row_times_map(row_bhn, _precise(queries_bhnd), _precise(keys_bhnd))
            row_bhn = (row_bhn + read_bhn) / 2 if self._residual else read_bhn
        return row_bhn


class GlobalSimilarity:
    """The `top_k` patches whose tokens before the last block have the largest cosine with the query token (GLSim).

    It needs no map, so every block keeps its fused attention. Most alike first.
    """

    def __init__(self, *, prefix_tokens: int, class_token: bool, top_k: int) -> None:
        self._prefix_tokens = prefix_tokens
        self._class_token = class_token
        self._top_k = top_k

    def see(self, block: nn.Module, tokens_bnd: torch.Tensor, rope: torch.Tensor | None) -> None:
        """Nothing of the blocks is needed but their result."""

    @torch.no_grad()
    def choose(self, tokens_bnd: torch.Tensor) -> torch.Tensor:
        with torch.autocast(tokens_bnd.device.type, enabled=False):
            tokens_bnd = _precise(tokens_bnd)
            query_bd = query_weights(tokens_bnd, self._prefix_tokens, class_token=self._class_token) @ tokens_bnd
            patches_bnd = tokens_bnd[:, self._prefix_tokens :]
            similarity_bn = nn.functional.cosine_similarity(query_bd[:, None], patches_bnd, dim=-1)
        return similarity_bn.topk(self._top_k, dim=-1).indices


def query_weights(tokens_bnd: torch.Tensor, prefix_tokens: int, *, class_token: bool) -> torch.Tensor:
    """weights_n of the tokens whose point of view counts: the class token, or without one all patches alike."""
    tokens = tokens_bnd.shape[1]
    # The class token is always the first of the prefix tokens.
    some = slice(0, 1) if class_token else slice(prefix_tokens, tokens)
    weights_n = _precise(tokens_bnd).new_zeros(tokens)
    weights_n[some] = 1.0 / len(range(tokens)[some])
    return weights_n


def queries_and_keys(
    block: nn.Module, tokens_bnd: torch.Tensor, rope: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled queries_bhnd and keys_bhnd of a pre-norm timm block whose attention is one of READABLE_ATTENTION.

    Computed a second time, so that the block itself runs as timm wrote it: fused, compiled or checkpointed.
    """
    attention: Any = block.attn
    inputs_bnd = cast(nn.Module, block.norm1)(tokens_bnd)
    queries_bhnd = attention.q_norm(_by_head(attention, _projected(attention, inputs_bnd, "q")))
    keys_bhnd = attention.k_norm(_by_head(attention, _projected(attention, inputs_bnd, "k")))
    if rope is not None:
        queries_bhnd, keys_bhnd = _rotated(attention, queries_bhnd, rope), _rotated(attention, keys_bhnd, rope)
    groups = queries_bhnd.shape[1] // keys_bhnd.shape[1]
    return queries_bhnd * attention.scale, keys_bhnd.repeat_interleave(groups, dim=1) if groups > 1 else keys_bhnd


def _projected(attention: Any, inputs_bnd: torch.Tensor, which: str) -> torch.Tensor:
    if attention.qkv is None:
        return cast(torch.Tensor, getattr(attention, f"{which}_proj")(inputs_bnd))
    width = attention.num_heads * attention.head_dim
    rows = slice(0, width) if which == "q" else slice(width, 2 * width)
    # EvaAttention keeps the biases apart from the layer; that of the keys is constant zero.
    bias = getattr(attention, f"{which}_bias", None)
    if bias is None and attention.qkv.bias is not None:
        bias = attention.qkv.bias[rows]
    return nn.functional.linear(inputs_bnd, attention.qkv.weight[rows], bias)


def _by_head(attention: Any, projected_bnd: torch.Tensor) -> torch.Tensor:
    batch, tokens, _ = projected_bnd.shape
    return projected_bnd.reshape(batch, tokens, -1, attention.head_dim).transpose(1, 2)


def _rotated(attention: Any, vectors_bhnd: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Prefix tokens have no place in the picture and are not turned."""
    prefix_bhnd, patches_bhnd = vectors_bhnd.tensor_split([attention.num_prefix_tokens], dim=2)
    return torch.cat([prefix_bhnd, apply_rot_embed_cat(patches_bhnd, rope, half=attention.rotate_half)], dim=2)


def _row_times_map(row_bhn: torch.Tensor, queries_bhnd: torch.Tensor, keys_bhnd: torch.Tensor) -> torch.Tensor:
    """row @ softmax(queries @ keys'), with a piece of the map in memory at a time."""
    pieces = zip(torch.split(row_bhn, _ROWS, dim=-1), torch.split(queries_bhnd, _ROWS, dim=2), strict=True)
    keys_bhdn = keys_bhnd.transpose(-2, -1)
    found = [row[..., None, :] @ (queries @ keys_bhdn).softmax(dim=-1) for row, queries in pieces]
    return torch.stack(found).sum(dim=0).squeeze(-2) if len(found) > 1 else found[0].squeeze(-2)


def _precise(tensor: torch.Tensor) -> torch.Tensor:
    """In float32 at least: a product of eleven maps in half precision would decide ties by rounding."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
