"""Grad-CAM against its formula and a backward pass by hand, rollout against the maps that timm itself computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from platform_assets.vision.heads.modules import UnitLinear, UnitVectors
from platform_assets.vision.heads.tree_head import TreeHead
from platform_assets.vision.networks.ensembles import Combination, Ensemble
from platform_assets.vision.networks.models import Classifier, build_classifier
from platform_assets.vision.views.saliency import attention_rollout, grad_cam, saliency
from platform_tests.vision.part_backbones import images, tiny
from platform_tests.vision.shapes import (
    PREPROCESSING,
    SHAPES,
    coloured_shapes,
    randomise_batch_norms,
    small_classifier,
)
from platform_tests.vision.trainings import net_classifier, one_thread

__all__ = ["one_thread"]
pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = coloured_shapes(3, seed=0).images_nchw
IMAGES_BCHW = torch.from_numpy(IMAGES)
CLASSES = np.array([0, 1, 2])
CLASSES_B = torch.from_numpy(CLASSES)


def _trained_like() -> Classifier:
    classifier = small_classifier()
    randomise_batch_norms(classifier)
    return classifier


def _unit_head(classifier: Classifier) -> None:
    """Logits that are not linear in the features."""
    unit = UnitVectors(torch.arange(256), torch.zeros(256), torch.ones(256))
    classifier.head = UnitLinear(unit, torch.randn(3, 256, generator=torch.Generator().manual_seed(0)), torch.zeros(3))


def test_grad_cam__of_a_pooled_linear_layer_is_the_class_activation_map() -> None:
    """Selvaraju et al. 2017, section 3.1: with average pooling and a linear head it is the map of Zhou et al. 2016."""
    classifier = _trained_like()
    assert isinstance(classifier.head, nn.Linear)
    with torch.no_grad():
        backbone = classifier.backbone
        maps_bchw = backbone.blocks(backbone.stem(classifier.normalised(IMAGES_BCHW)))
        weights_bc = classifier.head.weight[CLASSES_B] / maps_bchw[0, 0].numel()
        wanted_bhw = torch.einsum("bc,bchw->bhw", weights_bc, maps_bchw).relu()
    found_bhw = grad_cam(classifier, IMAGES_BCHW, CLASSES_B)
    assert found_bhw is not None
    assert found_bhw.max() > 0
    torch.testing.assert_close(found_bhw, wanted_bhw)


def test_grad_cam__through_another_head_is_autograds() -> None:
    classifier = _trained_like()
    _unit_head(classifier)
    backbone = classifier.backbone
    maps_bchw = backbone.blocks(backbone.stem(classifier.normalised(IMAGES_BCHW)))
    maps_bchw.retain_grad()
    classifier.head(maps_bchw.mean(dim=(2, 3))).gather(1, CLASSES_B[:, None]).sum().backward()
    assert maps_bchw.grad is not None
    wanted_bhw = (maps_bchw.grad.mean(dim=(2, 3), keepdim=True) * maps_bchw).sum(dim=1).relu()
    torch.testing.assert_close(grad_cam(classifier, IMAGES_BCHW, CLASSES_B), wanted_bhw)


def test_grad_cam__weights_are_means_of_a_gradient_that_differs_from_place_to_place() -> None:
    classifier = net_classifier()
    seen: list[torch.Tensor] = []
    handle = classifier.backbone.dropout.register_forward_hook(lambda _module, _given, output: seen.append(output))
    of_class = classifier(IMAGES_BCHW).gather(1, CLASSES_B[:, None]).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(of_class, seen[0])
    assert gradient.std(dim=(2, 3)).min() > 0
    wanted_bhw = torch.einsum("bc,bchw->bhw", gradient.flatten(2).mean(dim=2), seen[0]).relu()
    torch.testing.assert_close(grad_cam(classifier, IMAGES_BCHW, CLASSES_B), wanted_bhw)


def test_saliency__leaves_the_classifier_as_it_was() -> None:
    classifier = _trained_like().train()
    classifier.head.requires_grad_(False)
    before = [(name, p.requires_grad) for name, p in classifier.named_parameters()]
    logits_bk = classifier.eval()(IMAGES_BCHW)
    found = saliency(classifier.train(), IMAGES, CLASSES)
    assert found is not None
    assert found.method == "Grad-CAM"
    assert found.maps_nhw.shape == (3, 2, 2)
    # A map without any evidence for its class stays zero.
    assert found.maps_nhw.max(axis=(1, 2)).tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert found.maps_nhw.min() >= 0
    assert classifier.training
    assert [(name, p.requires_grad) for name, p in classifier.named_parameters()] == before
    assert not any(module._forward_hooks for module in classifier.modules())
    torch.testing.assert_close(classifier.eval()(IMAGES_BCHW), logits_bk)


class _Brightness(nn.Module):
    """One channel, the mean of the colours in fields of 4 pixels, pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.AvgPool2d(4)

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        return self.field(x_bchw).mean(dim=1, keepdim=True).mean(dim=(2, 3))


def test_saliency__is_bright_where_the_evidence_is() -> None:
    classifier = small_classifier()
    classifier.backbone, classifier.head = _Brightness(), nn.Linear(1, 3)
    classifier.head.weight.data = torch.tensor([[1.0], [-1.0], [0.0]])
    dark = np.full((2, 3, 32, 32), 128, dtype=np.uint8)
    dark[0, :, 8:12, 20:24] = 255
    dark[1, :, 28:, :4] = 0
    found = saliency(classifier, dark, np.array([0, 1]))
    assert found is not None
    places = [np.unravel_index(map_hw.argmax(), map_hw.shape) for map_hw in found.maps_nhw]
    assert places == [(2, 5), (7, 0)]


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "timm/test_convnext", "timm/test_resnet"])
def test_saliency__networks_of_timm(backbone: str) -> None:
    """Their activations work in place, which the cut must survive."""
    classifier = build_classifier(backbone, 3, PREPROCESSING, pretrained=False, seed=0)
    randomise_batch_norms(classifier)
    found = saliency(classifier, np.concatenate([IMAGES] * 2).repeat(2, axis=2).repeat(2, axis=3), np.arange(6) % 3)
    assert found is not None
    assert found.maps_nhw.shape[1:] == (2, 2)
    assert np.isfinite(found.maps_nhw).all()


@pytest.mark.parametrize(
    "name",
    ["test_vit", "test_vit2", "vit_base_patch16_siglip_224", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224"],
)
def test_attention_rollout__is_the_product_of_timms_own_maps(name: str) -> None:
    model = tiny(name)
    pictures = images(model)
    found_bhw = attention_rollout(model, lambda: model(pictures))
    maps: list[torch.Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _module, given: maps.append(given[0]))
    model(pictures)
    tokens = maps[0].shape[-1]
    product_bnn = torch.eye(tokens, dtype=torch.float64).expand(len(pictures), -1, -1)
    for map_bhnn in maps:
        product_bnn = (map_bhnn.mean(dim=1) + torch.eye(tokens)) / 2 @ product_bnn
    prefix = model.num_prefix_tokens
    row_bn = product_bnn[:, 0] if model.cls_token is not None else product_bnn[:, prefix:].mean(dim=1)
    assert found_bhw is not None
    wanted_bhw = row_bn[:, prefix:].reshape(found_bhw.shape)
    torch.testing.assert_close(found_bhw.double(), wanted_bhw, rtol=1e-4, atol=1e-6)


def test_saliency__of_a_transformer_is_its_rollout() -> None:
    classifier = build_classifier(
        "timm/test_vit", 3, PREPROCESSING.model_copy(update={"image_size_px": 32}), pretrained=False, seed=0
    )
    found = saliency(classifier, IMAGES, CLASSES)
    assert found is not None
    assert found.method == "attention rollout"
    assert found.maps_nhw.shape == (3, 2, 2)
    assert found.maps_nhw.min(axis=(1, 2)).tolist() == [0.0] * 3


def test_saliency__trees_have_no_gradient() -> None:
    classifier = small_classifier()
    classifier.head = TreeHead.shaped_as(_stump(), num_classes=3)
    assert saliency(classifier, IMAGES, CLASSES) is None


def _stump() -> dict[str, torch.Tensor]:
    import lightgbm

    rows, labels = np.random.default_rng(0).normal(size=(60, 256)), np.arange(60) % 3
    options = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "num_threads": 1, "use_missing": False}
    booster = lightgbm.train(options, lightgbm.Dataset(rows, label=labels), 1)
    return TreeHead.of_model_text(booster.model_to_string(), num_classes=3).state_dict()


def test_saliency__of_an_ensemble_is_that_of_its_heaviest_member() -> None:
    members = {"a": _trained_like(), "b": small_classifier(seed=3)}
    ensemble = Ensemble(members, Combination(torch.tensor([0.2, 0.8])))
    found, alone = saliency(ensemble, IMAGES, CLASSES), saliency(members["b"], IMAGES, CLASSES)
    assert found is not None
    assert alone is not None
    assert np.array_equal(found.maps_nhw, alone.maps_nhw)
    assert len(SHAPES.names) == 3
