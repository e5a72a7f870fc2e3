"""Selection of parts against plain loops in float64, on the maps that timm's own attention makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from platform_assets.vision.networks import part_selectors
from platform_assets.vision.networks.part_attention import PartAttention
from platform_assets.vision.networks.part_selectors import AttentionProduct, GlobalSimilarity, Selector, query_weights
from platform_assets.vision.recipes.part_options import PartOptions
from platform_tests.vision.part_backbones import NAMES, images, tiny

SELECTORS = {
    "transfg": lambda prefix_tokens: AttentionProduct(
        prefix_tokens=prefix_tokens, class_token=prefix_tokens > 0, residual=False
    ),
    "glsim": lambda prefix_tokens: GlobalSimilarity(
        prefix_tokens=prefix_tokens, class_token=prefix_tokens > 0, top_k=2
    ),
}
Maps = list[NDArray[np.float64]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on tensors this small only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _maps_of_timm(model: Any, images_bchw: torch.Tensor) -> Maps:
    """The softmax maps_bhnn of every block of an ordinary forward pass, as its attention multiplies them with values."""
    maps: Maps = []
    hooks = []
    for block in model.blocks:
        block.attn.fused_attn = False
        hooks.append(block.attn.attn_drop.register_forward_hook(lambda _, given, __: maps.append(given[0].numpy())))
    with torch.no_grad():
        model(images_bchw)
    for block, hook in zip(model.blocks, hooks, strict=True):
        block.attn.fused_attn = True
        hook.remove()
    return maps


def _product(maps_lnn: list[NDArray[np.float64]], *, residual: bool) -> NDArray[np.float64]:
    """All maps of one image and head multiplied, the first one on the right."""
    product = np.eye(len(maps_lnn[0]))
    for map_nn in maps_lnn:
        product = ((map_nn + np.eye(len(map_nn))) / 2 if residual else map_nn) @ product
    return product


def _loop_indices(model: Any, maps: Maps, *, residual: bool = False) -> list[list[int]]:
    """He et al., step by step: multiply the stored maps of all blocks but the last, read the query's row, take the best."""
    prefix = model.num_prefix_tokens
    found = []
    for image in range(len(maps[0])):
        picked = []
        for head in range(maps[0].shape[1]):
            product_nn = _product([map_bhnn[image, head] for map_bhnn in maps[:-1]], residual=residual)
            row = product_nn[0] if model.cls_token is not None else product_nn[prefix:].mean(axis=0)
            best = prefix
            for token in range(prefix, len(row)):
                if row[token] > row[best]:
                    best = token
            picked.append(best - prefix)
        found.append(picked)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_transfg__picks_what_the_product_of_timms_own_maps_says(name: str) -> None:
    parts = PartAttention(tiny(name), PartOptions(stride_px=12)).eval()
    pictures = images(parts.model)
    indices, _ = parts.selected(pictures)
    maps = _maps_of_timm(parts.model, pictures)
    assert len(maps) == 3
    assert maps[0].std() > 0.02, "maps that are uniform would prove nothing"
    assert indices.tolist() == _loop_indices(parts.model, maps)


def test_transfg__residual_is_rollout_by_head() -> None:
    parts = PartAttention(tiny("test_vit", depth=4), PartOptions(residual=True)).eval()
    pictures = images(parts.model, 12)
    maps = _maps_of_timm(parts.model, pictures)
    found = parts.selected(pictures)[0].tolist()
    assert found == _loop_indices(parts.model, maps, residual=True)
    assert found != _loop_indices(parts.model, maps)


def test_transfg__reads_qk_norm_and_grouped_queries() -> None:
    grouped = {"attn_type": "rope", "qkv_fused": False, "num_kv_heads": 1, "qk_norm": True}
    parts = PartAttention(tiny("vit_small_patch16_dinov3", **grouped), PartOptions()).eval()
    pictures = images(parts.model)
    maps = _maps_of_timm(parts.model, pictures)
    assert parts.selected(pictures)[0].tolist() == _loop_indices(parts.model, maps)


def _row(model: Any, pictures: torch.Tensor) -> torch.Tensor:
    selector = AttentionProduct(prefix_tokens=1, class_token=True, residual=False)
    return selector.row(_walk(model, model._pos_embed(model.patch_embed(pictures)), selector))


def _walk(model: Any, tokens_bnd: torch.Tensor, selector: Selector) -> torch.Tensor:
    with torch.no_grad():
        for block in model.blocks[:-1]:
            selector.see(block, tokens_bnd, None)
            tokens_bnd = block(tokens_bnd)
    return tokens_bnd


def test_row__is_the_first_row_of_the_running_product_to_the_last_digits() -> None:
    model = tiny("test_vit")
    pictures = images(model, 2)
    maps = _maps_of_timm(model, pictures)
    products = [[_product([m[b, h] for m in maps[:-1]], residual=False)[0] for h in range(2)] for b in range(2)]
    np.testing.assert_allclose(_row(model, pictures).numpy(), products, rtol=1e-9)


def test_row__does_not_depend_on_the_pieces_that_maps_are_cut_into(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("test_vit")
    whole = _row(model, images(model))
    monkeypatch.setattr(part_selectors, "_ROWS", 5)
    torch.testing.assert_close(_row(model, images(model)), whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("prefix_tokens", [0, 1, 5])
def test_glsim__is_the_cosine_of_a_loop(prefix_tokens: int) -> None:
    tokens_bnd = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    selector = GlobalSimilarity(prefix_tokens=prefix_tokens, class_token=prefix_tokens > 0, top_k=4)
    expected = []
    for tokens_nd in tokens_bnd.numpy():
        query = tokens_nd[0] if prefix_tokens else tokens_nd.mean(axis=0)
        cosines = []
        for token in tokens_nd[prefix_tokens:]:
            dot = sum(a * b for a, b in zip(query, token, strict=True))
            cosines.append(dot / np.sqrt(sum(query**2)) / np.sqrt(sum(token**2)))
        expected.append(sorted(range(len(cosines)), key=lambda i, c=cosines: -c[i])[:4])
    assert selector.choose(tokens_bnd).tolist() == expected


def test_query_weights__without_a_class_token_all_patches_and_no_register() -> None:
    tokens = torch.zeros(1, 6, 2, dtype=torch.float16)
    assert query_weights(tokens, 2, class_token=True).tolist() == [1, 0, 0, 0, 0, 0]
    weights = query_weights(tokens, 2, class_token=False)
    assert weights.tolist() == [0, 0, 0.25, 0.25, 0.25, 0.25]
    assert weights.dtype == torch.float32


@pytest.mark.parametrize("kind", SELECTORS)
def test_selectors__follow_patches_wherever_they_are(kind: str) -> None:
    """Without positions, patches in another order are the same parts at other indices; registers are never parts."""
    model: Any = tiny("test_vit")
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    tokens_bnd = torch.randn(4, 17, 32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    shuffled_bnd = torch.cat([tokens_bnd[:, :1], tokens_bnd[:, 1:][:, order]], dim=1)
    first, second = SELECTORS[kind](1), SELECTORS[kind](1)
    indices_bs = first.choose(_walk(model, tokens_bnd, first))
    shuffled_bs = second.choose(_walk(model, shuffled_bnd, second))
    assert indices_bs.dtype == torch.int64
    assert indices_bs.shape == (4, 2)
    assert not indices_bs.requires_grad
    assert len({tuple(row) for row in indices_bs.tolist()}) > 1
    torch.testing.assert_close(order[shuffled_bs], indices_bs)


@pytest.mark.parametrize("kind", SELECTORS)
@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "vit_small_patch14_reg4_dinov2"])
def test_selectors__one_image_alone_is_picked_from_as_in_a_batch(kind: str, name: str) -> None:
    parts = PartAttention(tiny(name), _options(kind)).eval()
    pictures = images(parts.model, 3)
    together, grid = parts.selected(pictures)
    alone = torch.cat([parts.selected(picture[None])[0] for picture in pictures])
    assert alone.tolist() == together.tolist()
    assert 0 <= int(together.min()) <= int(together.max()) < grid[0] * grid[1]


def test_transfg__duplicates_are_kept() -> None:
    """Two heads with the same weights look at the same patch, and it is there twice."""
    model: Any = tiny("test_vit")
    with torch.no_grad():
        for block in model.blocks:
            weight = block.attn.qkv.weight.view(3, 2, 16, 32)
            weight[:, 1] = weight[:, 0]
            bias = block.attn.qkv.bias.view(3, 2, 16)
            bias[:, 1] = bias[:, 0]
    indices, _ = PartAttention(model, PartOptions()).eval().selected(images(model))
    assert indices.shape == (3, 2)
    assert indices[:, 0].tolist() == indices[:, 1].tolist()


def _options(kind: str) -> PartOptions:
    return PartOptions.model_validate({"selector": kind, **({"top_k": 4} if kind == "glsim" else {})})


def test_selectors__are_modules_of_no_weights() -> None:
    assert not any(isinstance(make(1), nn.Module) for make in SELECTORS.values())
