"""Weights files of every layout into the architectures they fit, tensor by tensor, and the refusal of all others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from platform_assets.vision.networks.baseline_cnn import BaselineCnn
from platform_assets.vision.networks.weights import WeightsDoNotFit, load_backbone, require_fit
from platform_assets.vision.recipes.backbones import get_backbone

TINY = ["test_vit", "test_vit2", "test_vit3", "test_efficientnet", "test_resnet", "test_convnext"]
Tensors = dict[str, torch.Tensor]


def _source(name: str, **options: object) -> nn.Module:
    """A network with a head, whose every tensor is drawn: fresh norms and zero biases would hide mistakes."""
    torch.manual_seed(1)
    model: nn.Module = timm.create_model(name, **options).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) * 0.2 + 0.1)
    return model


def _file(tensors: Tensors, folder: Path) -> Path:
    path = folder / "w.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


def _loaded(name: str, path: Path, size_px: int | None = None) -> nn.Module:
    return load_backbone(f"timm/{name}", pretrained=True, weights=path, image_size_px=size_px)


@pytest.mark.parametrize("name", TINY)
def test_load_backbone__of_a_file_gives_the_features_under_its_head(tmp_path: Path, name: str) -> None:
    source = _source(name, **({"img_size": 64} if "vit" in name else {}))
    path = _file(source.state_dict(), tmp_path)
    images_bchw = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = source.forward_head(source.forward_features(images_bchw), pre_logits=True)  # type: ignore[operator]
        torch.testing.assert_close(_loaded(name, path, 64)(images_bchw), expected)
    require_fit(get_backbone(f"timm/{name}"), path)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3"])
@pytest.mark.parametrize("size_px", [96, 224])
def test_load_backbone__resamples_the_position_embeddings_alone(tmp_path: Path, name: str, size_px: int) -> None:
    stored = _source(name).state_dict()
    loaded = _loaded(name, _file(stored, tmp_path), size_px).state_dict()
    side, prefix = size_px // 16, stored["pos_embed"].shape[1] - 100
    expected = resample_abs_pos_embed(stored["pos_embed"], (side, side), (10, 10), num_prefix_tokens=prefix)
    torch.testing.assert_close(loaded.pop("pos_embed"), expected)
    assert all(torch.equal(value, stored[tensor]) for tensor, value in loaded.items())


LAYOUTS: dict[str, Callable[[Tensors], Tensors]] = {
    "without_head": lambda tensors: {n: v for n, v in tensors.items() if not n.startswith("head.")},
    "our_checkpoint": lambda tensors: {n if n.startswith("head.") else f"backbone.{n}": v for n, v in tensors.items()},
    "open_clip": lambda tensors: {f"visual.trunk.{n}": v for n, v in tensors.items() if not n.startswith("head.")},
    "float16": lambda tensors: {n: v.half() for n, v in tensors.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size_px", [160, 96])
def test_load_backbone__reads_other_layouts_of_the_same_weights(tmp_path: Path, layout: str, size_px: int) -> None:
    stored = _source("test_vit").state_dict()
    expected = _loaded("test_vit", _file(stored, tmp_path), size_px).state_dict()
    found = _loaded("test_vit", _file(LAYOUTS[layout](stored), tmp_path), size_px).state_dict()
    rounding = 1e-3 if layout == "float16" else 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=rounding, rtol=rounding)


def test_load_backbone__of_torch_save(tmp_path: Path) -> None:
    stored = _source("test_resnet").state_dict()
    torch.save({"state_dict": {f"module.{n}": v for n, v in stored.items()}, "epoch": 3}, tmp_path / "w.pth")
    found = _loaded("test_resnet", tmp_path / "w.pth").state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in found.items())


def test_load_backbone__of_our_own_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    stored = BaselineCnn().state_dict()
    path = _file(stored, tmp_path)
    found = load_backbone("baseline_cnn", pretrained=True, weights=path).state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in found.items())
    require_fit(get_backbone("baseline_cnn"), path)


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("test_vit", {"norm.bias": None}, r"norm\.bias is missing \(1 in all\)"),
        ("test_vit", {"extra": torch.zeros(2)}, r"extra is not expected \(1 in all\)"),
        ("test_vit", {"norm.bias": torch.zeros(4)}, r"norm\.bias is \(4,\) instead of \(64,\)"),
        ("test_vit", {"pos_embed": torch.zeros(1, 101, 8)}, r"pos_embed is \(1, .*8\) instead of \(1, 101, 64\)"),
        ("test_vit", {"pos_embed": torch.zeros(1, 90, 64)}, r"pos_embed is \(1, 90, 64\) instead of \(1, 101, 64\)"),
        (
            "test_vit",
            {"patch_embed.proj.weight": torch.zeros(64, 3, 8, 8)},
            r"patch_embed\.proj\.weight is \(64, 3, 8, 8\) instead of \(64, 3, 16, 16\); .*another architecture",
        ),
        ("test_convnext", {"stages.0.blocks.0.gamma": None}, r"stages\.0\.blocks\.0\.gamma is missing"),
        ("test_convnext", {"extra.weight": torch.zeros(2, 2)}, r"extra\.weight is not expected"),
        ("test_resnet", {"bn1.running_mean": None}, r"bn1\.running_mean is missing"),
    ],
)
def test_load_backbone__names_the_tensors_that_do_not_fit(
    tmp_path: Path, name: str, changed: dict[str, torch.Tensor | None], said: str
) -> None:
    tensors = {n: v for n, v in (_source(name).state_dict() | changed).items() if v is not None}
    path = _file(tensors, tmp_path)
    for read in (_loaded, lambda name, path: require_fit(get_backbone(f"timm/{name}"), path)):
        with pytest.raises(WeightsDoNotFit, match=rf"w\.safetensors does not fit backbone 'timm/{name}': {said}"):
            read(name, path)


def test_load_backbone__a_file_of_another_architecture_says_how_far_off_it_is(tmp_path: Path) -> None:
    path = _file(_source("test_vit").state_dict(), tmp_path)
    with pytest.raises(WeightsDoNotFit, match=r"(is missing|is not expected).*\(\d\d+ in all\); name a file of this"):
        _loaded("test_efficientnet", path)


def test_require_fit__takes_position_embeddings_of_another_grid(tmp_path: Path) -> None:
    stored = load_backbone("timm/test_vit", pretrained=False, image_size_px=96).state_dict()
    assert stored["pos_embed"].shape == (1, 37, 64)
    path = _file(stored, tmp_path)
    require_fit(get_backbone("timm/test_vit"), path)
    assert load_file(path)["pos_embed"].shape == (1, 37, 64)
