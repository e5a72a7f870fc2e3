"""Part attention on small ViTs of timm: layout, equality with timm's forward, loss, gradients, export, refusals."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.networks import part_attention
from platform_assets.vision.networks.exporting import check_parity, export_onnx
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.networks.part_attention import PartAttention, PartsDoNotFit, contrastive_loss
from platform_assets.vision.recipes.backbones import BACKBONES, get_backbone
from platform_assets.vision.recipes.part_options import PartOptions
from platform_tests.vision.part_backbones import NAMES, images, tiny
from platform_tests.vision.pictures import encoded, noise


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on tensors this small only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("side", "stride", "patches"), [(448, 12, 1369), (224, 12, 324), (304, 12, 625), (224, None, 196), (96, 16, 36)]
)
def test_layout__overlapping_patches_are_counted_as_in_the_paper(side: int, stride: int | None, patches: int) -> None:
    model = tiny("test_vit", img_size=224, depth=2)
    parts = PartAttention(model, PartOptions(stride_px=stride), image_size_px=side)
    assert patches == ((side - 16) // (stride or 16) + 1) ** 2 == parts.grid[0] * parts.grid[1]
    embedded = parts.get_submodule("model.patch_embed")(images(model, 1))
    assert embedded.shape == (1, patches, 32)


def test_layout__positions_are_resampled_once_from_the_pretrained_grid() -> None:
    model: Any = tiny("test_vit", img_size=224)
    trained_1nd = model.pos_embed.detach().clone()
    PartAttention(model, PartOptions(stride_px=12), image_size_px=96)
    expected_1nd = resample_abs_pos_embed(trained_1nd, new_size=[7, 7], old_size=[14, 14], num_prefix_tokens=1)
    torch.testing.assert_close(model.pos_embed.data, expected_1nd, rtol=0, atol=0)
    torch.testing.assert_close(model.pos_embed.data[:, 0], trained_1nd[:, 0], rtol=0, atol=0)


def test_layout__overlapping_patches_see_the_pixels_between() -> None:
    """A patch of stride 12 is the pretrained convolution on pixels 12 further on."""
    model: Any = tiny("test_vit")
    pictures = images(model)
    wanted = model.patch_embed.proj(pictures[:, :, 12:28, 24:40])[..., 0, 0]
    parts = PartAttention(model, PartOptions(stride_px=12))
    embedded = model.patch_embed(pictures)[:, 1 * parts.grid[1] + 2]
    torch.testing.assert_close(embedded, wanted)


def _as_timm_pools(model: Any) -> nn.Module:
    """Part attention takes the class token where there is one; some timm models average over patches by default."""
    if model.cls_token is not None and getattr(model, "attn_pool", None) is None:
        model.reset_classifier(0, None if hasattr(model, "dist_token") else "token")
    return model


@pytest.mark.parametrize("name", NAMES)
def test_forward__is_timms_own_when_the_last_block_sees_all_patches(name: str) -> None:
    plain = _as_timm_pools(tiny(name))
    every = (NAMES[name] // plain.get_submodule("patch_embed").proj.kernel_size[0]) ** 2
    parts = PartAttention(copy.deepcopy(plain), PartOptions(selector="glsim", top_k=every)).eval()
    pictures = images(plain)
    with torch.no_grad():
        whole: Any = plain.forward_features(pictures)
        expected = plain.pool(whole) if hasattr(plain, "dist_token") else plain(pictures)
        found = parts(pictures)
    assert found.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("selector", ["transfg", "glsim"])
def test_forward__is_the_last_block_on_class_token_registers_and_parts(selector: str) -> None:
    options = {"selector": selector, "stride_px": 7, **({"top_k": 3} if selector == "glsim" else {})}
    parts = PartAttention(tiny("vit_small_patch14_reg4_dinov2"), PartOptions.model_validate(options)).eval()
    model: Any = parts.model
    pictures = images(model)
    with torch.no_grad():
        tokens_bnd = model._pos_embed(model.patch_embed(pictures))
        for block in model.blocks[:-1]:
            tokens_bnd = block(tokens_bnd)
        expected = []
        for tokens_nd, picked in zip(tokens_bnd, parts.selected(pictures)[0].tolist(), strict=True):
            read = [tokens_nd[i] for i in range(5)] + [tokens_nd[5 + i] for i in picked]
            expected.append(model.norm(model.blocks[-1](torch.stack(read)[None]))[0, 0])
        torch.testing.assert_close(parts(pictures), torch.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
def test_evaluation__holds_the_tokens_of_a_few_images_and_training_of_all(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation kept the input of every block of all 64 images of a batch: 2.7 GB of ViT-B/16 at 448 px."""
    parts = PartAttention(tiny(name), PartOptions(stride_px=12)).eval()
    model: Any = parts.model
    pictures, read = images(model, 5), list[int]()
    model.blocks[1].register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    with torch.no_grad():
        whole, picked = parts(pictures), parts.selected(pictures)[0]
        tokens = model.num_prefix_tokens + parts.grid[0] * parts.grid[1]
        monkeypatch.setattr(part_attention, "_KEPT_BYTES", 2 * (len(model.blocks) - 1) * tokens * 32 * 8 + 1)
        read.clear()
        torch.testing.assert_close(parts(pictures), whole, rtol=1e-12, atol=1e-12)
        assert torch.equal(parts.selected(pictures)[0], picked)
    assert read == [2, 2, 1, 2, 2, 1]
    parts.train()(pictures)
    assert read[6:] == [5]


def test_forward__without_class_token_or_pool_is_the_mean_over_the_parts() -> None:
    parts = PartAttention(tiny("test_vit2"), PartOptions()).eval()
    model: Any = parts.model
    pictures = images(model, 1)
    with torch.no_grad():
        tokens_bnd = model._pos_embed(model.patch_embed(pictures))
        for block in model.blocks[:-1]:
            tokens_bnd = block(tokens_bnd)
        picked = 1 + parts.selected(pictures)[0][0]
        read_bnd = model.blocks[-1](tokens_bnd[:, [0, *picked.tolist()]])
        torch.testing.assert_close(parts(pictures), model.fc_norm(model.norm(read_bnd)[:, 1:].mean(dim=1)))


@pytest.mark.parametrize("case", ["drawn", "all one class", "all different", "one image"])
def test_contrastive_loss__is_two_nested_loops(case: str) -> None:
    generator = torch.Generator().manual_seed(5)
    images_b = 1 if case == "one image" else 12
    features_bd = torch.randn(images_b, 3, generator=generator, dtype=torch.float64)
    labels_b = torch.randint(0, 4, (images_b,), generator=generator)
    labels_b = {"all one class": labels_b * 0, "all different": torch.arange(images_b)}.get(case, labels_b)
    total = 0.0
    for i in range(images_b):
        for j in range(images_b):
            one, other = features_bd[i].numpy(), features_bd[j].numpy()
            cosine = float(one @ other) / np.sqrt(float(one @ one)) / np.sqrt(float(other @ other))
            total += 1 - cosine if labels_b[i] == labels_b[j] else max(cosine - 0.4, 0.0)
    assert float(contrastive_loss(features_bd, labels_b)) == pytest.approx(total / images_b**2, abs=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_auxiliary_loss__has_the_options_weight(weight: float) -> None:
    parts = PartAttention(tiny("test_vit"), PartOptions(contrast_weight=weight))
    features_bd, labels_b = torch.randn(6, 32), torch.tensor([0, 0, 1, 1, 2, 2])
    expected = weight * contrastive_loss(features_bd, labels_b)
    torch.testing.assert_close(parts.auxiliary_loss(features_bd, labels_b), expected)
    assert expected > 0 or weight == 0


def _gradients(parts: PartAttention, pictures: torch.Tensor, labels_b: torch.Tensor) -> dict[str, torch.Tensor]:
    parts.zero_grad(set_to_none=True)
    features_bd = parts(pictures)
    torch.autograd.backward(parts.auxiliary_loss(features_bd, labels_b) + features_bd.square().mean())
    return {name: parameter.grad.clone() for name, parameter in parts.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("selector", ["transfg", "glsim"])
@pytest.mark.parametrize("name", ["test_vit", "test_vit3", "vit_small_patch16_dinov3"])
def test_training__gradients_reach_every_weight_and_repeat_bit_for_bit(selector: str, name: str) -> None:
    options = {"selector": selector, "stride_px": 12, **({"top_k": 4} if selector == "glsim" else {})}
    parts = PartAttention(tiny(name), PartOptions.model_validate(options)).float().train()
    pictures, labels_b = images(parts.model, 4).float(), torch.tensor([0, 0, 1, 1])
    first = _gradients(parts, pictures, labels_b)
    assert first.keys() == dict(parts.named_parameters()).keys()
    assert [key for key, gradient in first.items() if not gradient.abs().max() > 0] == []
    second = _gradients(parts, pictures, labels_b)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_training__checkpointed_blocks_give_the_same_gradients() -> None:
    parts = PartAttention(tiny("vit_small_patch16_dinov3"), PartOptions()).train()
    pictures, labels_b = images(parts.model, 4), torch.tensor([0, 0, 1, 1])
    plain = _gradients(parts, pictures, labels_b)
    parts.set_grad_checkpointing(True)
    runs = []
    hook = parts.get_submodule("model.blocks.0.mlp").register_forward_hook(lambda *_: runs.append(1))
    checkpointed = _gradients(parts, pictures, labels_b)
    hook.remove()
    assert len(runs) == 2, "a checkpointed block runs again in the backward pass"
    for key, gradient in plain.items():
        torch.testing.assert_close(checkpointed[key], gradient, rtol=1e-9, atol=1e-12)


def test_training__learns_where_the_bright_patch_is() -> None:
    """Four classes, one for each quarter in which a noisy picture has a bright patch."""
    generator = torch.Generator().manual_seed(6)
    labels_b = torch.arange(16) % 4
    pictures = torch.randn(16, 3, 64, 64, generator=generator) * 0.1
    for picture, label in zip(pictures, labels_b.tolist(), strict=True):
        picture[:, 16 + 32 * (label // 2) :, 16 + 32 * (label % 2) :][:, :16, :16] += 1
    torch.manual_seed(0)
    parts = PartAttention(timm.create_model("test_vit", depth=3, img_size=64, num_classes=0), PartOptions()).train()
    head = nn.Linear(64, 4)
    optimizer = torch.optim.AdamW([*parts.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(25):
        features_bd = parts(pictures)
        loss = nn.functional.cross_entropy(head(features_bd), labels_b) + parts.auxiliary_loss(features_bd, labels_b)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert float((head(parts(pictures)).argmax(dim=1) == labels_b).float().mean()) > 0.9


@pytest.mark.parametrize("selector", ["transfg", "glsim"])
def test_training__in_bfloat16_autocast_has_a_finite_float32_loss(selector: str) -> None:
    options = {"selector": selector, **({"top_k": 4} if selector == "glsim" else {})}
    parts = PartAttention(tiny("test_vit"), PartOptions.model_validate(options)).float().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = parts.auxiliary_loss(parts(images(parts.model).float()), torch.tensor([0, 0, 1]))
    torch.autograd.backward(loss)
    assert loss.dtype == torch.float32
    assert all(bool(parameter.grad.isfinite().all()) for parameter in parts.parameters() if parameter.grad is not None)


def test_weights__of_the_plain_model_load_unchanged() -> None:
    plain = tiny("vit_small_patch14_reg4_dinov2", seed=7)
    parts = PartAttention(tiny("vit_small_patch14_reg4_dinov2"), PartOptions()).eval()
    parts.model.load_state_dict(plain.state_dict(), strict=True)
    same = PartAttention(plain, PartOptions()).eval()
    assert torch.equal(parts(images(plain)), same(images(plain)))
    overlapping = PartAttention(tiny("vit_small_patch14_reg4_dinov2", seed=7), PartOptions(stride_px=7))
    changed = [key for key, value in overlapping.state_dict().items() if value.shape != parts.state_dict()[key].shape]
    assert changed == ["model.pos_embed"]


def test_weights__a_classifier_is_taken_off() -> None:
    parts = PartAttention(tiny("test_vit", num_classes=5), PartOptions())
    assert [name for name, _ in parts.named_parameters() if "head" in name] == []


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnet18", {}, "backbone 'resnet18' is not a plain vision transformer"),
        ("vit_tiny_r_s16_p8_224", {}, "backbone 'vit_tiny_r_s16_p8_224' is not a plain vision transformer"),
        (
            "vit_base_patch16_xp_224",
            {},
            "'vit_base_patch16_xp_224' has blocks of ParallelScalingBlock.*selector: glsim",
        ),
        ("test_vit", {"stride_px": 17}, "stride_px 17 is more than the 16 pixels of a patch of 'test_vit'"),
        ("test_vit", {"selector": "glsim", "top_k": 17}, "top_k 17 is more than the 16 patches"),
        ("one block", {}, "'test_vit' has 1 block; selecting parts takes two or more"),
        ("too small", {}, r"images of \(8, 8\) pixels hold no patch .*raise image_size_px"),
    ],
)
def test_refused__with_the_backbone_and_the_cure(model: str, options: dict[str, Any], message: str) -> None:
    small = {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2}
    named: dict[str, tuple[str, dict[str, Any]]] = {
        "resnet18": ("resnet18", {}),
        "vit_tiny_r_s16_p8_224": ("vit_tiny_r_s16_p8_224", {}),
        "one block": ("test_vit", {**small, "depth": 1}),
        "too small": ("test_vit", small),
    }
    name, build = named.get(model, (model, small))
    with pytest.raises(PartsDoNotFit, match=message):
        PartAttention(
            timm.create_model(name, **build),
            PartOptions.model_validate(options),
            image_size_px=8 if model == "too small" else None,
        )


def test_refused__blocks_without_readable_maps_are_fine_for_glsim() -> None:
    model = tiny("vit_base_patch16_xp_224")
    parts = PartAttention(model, PartOptions(selector="glsim", top_k=4)).eval()
    assert parts(images(model)).shape == (3, 32)


def test_refused__images_of_another_size() -> None:
    parts = PartAttention(tiny("test_vit"), PartOptions(), image_size_px=96)
    with pytest.raises(
        PartsDoNotFit, match=r"images of \(64, 64\) pixels do not fit .*'test_vit', laid out for \(96, 96\)"
    ):
        parts(torch.zeros(1, 3, 64, 64, dtype=torch.float64))


def test_export__onnx_picks_the_same_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = get_backbone("baseline_cnn").model_copy(update={"name": "tiny_parts", "feature_dim": 32})
    monkeypatch.setitem(BACKBONES, "tiny_parts", entry)
    preprocessing, label_map = entry.preprocessing(image_size_px=64), LabelMap(names=("a", "b", "c"))
    parts = PartAttention(tiny("test_vit", depth=2).float(), PartOptions(stride_px=12))
    torch.manual_seed(0)
    classifier = Classifier(parts, backbone_name="tiny_parts", num_classes=3, preprocessing=preprocessing).eval()
    export_onnx(classifier, tmp_path / "parts.onnx", label_map=label_map, checkpoint_id="0" * 16)
    files = [encoded(noise(seed, width=64, height=64)) for seed in range(8)]
    report = check_parity(classifier, tmp_path / "parts.onnx", files, label_map=label_map)
    assert report.problems == ()
    # Another choice of parts is far outside the tolerance, so that parity says they are the same.
    pixels = torch.rand(8, 3, 64, 64) * 255
    with torch.no_grad():
        right_bk = classifier(pixels)
        parts.options = PartOptions(selector="glsim", top_k=2)
        other_bk = classifier(pixels)
    assert float((other_bk - right_bk).abs().max(dim=1).values.min()) > 3 * report.tolerance
