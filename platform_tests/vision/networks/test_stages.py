"""Features of every stage: what they are, against a float64 loop, and that they survive checkpoint and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from platform_assets.vision.networks.checkpoints import CheckpointError, load_classifier, save_checkpoint
from platform_assets.vision.networks.exporting import check_parity, export_onnx
from platform_assets.vision.networks.models import Classifier, build_classifier
from platform_assets.vision.networks.stages import StageFeatures
from platform_assets.vision.networks.weights import load_backbone
from platform_assets.vision.recipes.backbones import BACKBONES, get_backbone
from platform_assets.vision.recipes.resolving import Protocol, ResolvedTrial, resolve_trial
from platform_assets.vision.recipes.variants import Variant
from platform_tests.vision.pictures import encoded, noise
from platform_tests.vision.shapes import PROTOCOL, SHAPES

LITE0 = "tf_efficientnet_lite0"
PIXELS = get_backbone(LITE0).preprocessing(image_size_px=64)
WITH_STAGES = [name for name, entry in BACKBONES.items() if entry.stages_dim is not None]


@pytest.fixture(scope="module")
def backbone() -> StageFeatures:
    torch.manual_seed(0)
    model = load_backbone(LITE0, pretrained=False, features="stages")
    assert isinstance(model, StageFeatures)
    return model


def _images_bchw(images: int = 2, *, side: int = 64) -> torch.Tensor:
    return torch.randn((images, 3, side, side), generator=torch.Generator().manual_seed(3))


def _by_hand(model: Any, image_chw: torch.Tensor) -> list[float]:
    """One image in float64: each channel of each stage in a loop, its mean, then its standard deviation."""
    maps = model.bn1(model.conv_stem(image_chw[None].double()))
    features: list[float] = []
    for number, stage in enumerate(model.blocks):
        maps = stage(maps)
        if number >= 3:
            channels = [channel.numpy().ravel() for channel in maps[0]]
            features += [float(np.mean(channel)) for channel in channels]
            features += [float(np.std(channel)) for channel in channels]
    head = model.bn2(model.conv_head(maps))
    return features + [float(np.mean(channel.numpy())) for channel in head[0]]


def test_stage_features__are_the_means_and_deviations_of_the_later_stages() -> None:
    torch.manual_seed(0)
    model = load_backbone(LITE0, pretrained=False, features="stages")
    images_bchw = _images_bchw()
    with torch.inference_mode():
        found_bd = model(images_bchw).numpy()
        double = model.double().get_submodule("model")
        wanted_bd = np.array([_by_hand(double, image_chw) for image_chw in images_bchw])
    assert found_bd.shape == wanted_bd.shape
    np.testing.assert_allclose(found_bd, wanted_bd, rtol=1e-3, atol=1e-5)


def test_stage_features__end_with_the_pooled_features(backbone: StageFeatures) -> None:
    torch.manual_seed(0)
    pooled = load_backbone(LITE0, pretrained=False)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(_images_bchw())[:, -1280:], pooled(_images_bchw()))


@pytest.mark.parametrize("name", WITH_STAGES)
def test_stage_features__are_as_wide_as_the_registry_says(name: str) -> None:
    with torch.inference_mode():
        features_bd = load_backbone(name, pretrained=False, features="stages")(_images_bchw(1))
    assert features_bd.shape == (1, get_backbone(name).dim("stages"))


def test_stage_features__are_finite_on_constant_images_and_so_is_their_gradient(backbone: StageFeatures) -> None:
    images_bchw = torch.zeros((1, 3, 64, 64), requires_grad=True)
    features_bd = backbone(images_bchw)
    (gradient_bchw,) = torch.autograd.grad(features_bd.sum(), images_bchw)
    assert torch.isfinite(features_bd).all()
    assert torch.isfinite(gradient_bchw).all()


def test_variant__stages_are_refused_where_they_mean_nothing() -> None:
    for mode in ("finetune", "scratch"):
        with pytest.raises(ValueError, match="features 'stages' is for mode 'linear_probe'"):
            Variant(backbone=LITE0, mode=mode, features="stages")
    with pytest.raises(ValueError, match="'baseline_cnn' has no features of stages"):
        Variant(backbone="baseline_cnn", mode="scratch", features="stages")
    with pytest.raises(ValueError, match="'baseline_cnn' has no features of stages"):
        load_backbone("baseline_cnn", pretrained=False, features="stages")


def _trial(features: str, protocol: Protocol = PROTOCOL) -> ResolvedTrial:
    variant = Variant.model_validate({"backbone": LITE0, "mode": "linear_probe", "features": features})
    protocol = protocol.model_copy(update={"image_size_px": PIXELS.image_size_px})
    return resolve_trial(variant, name="probe", seed=0, protocol=protocol)


def _classifier() -> Classifier:
    """Random weights, a head that tells images apart."""
    classifier = build_classifier(LITE0, len(SHAPES), PIXELS, pretrained=False, seed=0, features="stages")
    torch.nn.init.normal_(classifier.head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return classifier


def test_trial__features_are_part_of_its_config() -> None:
    assert _trial("stages").config_hash != _trial("pooled").config_hash


def test_checkpoint__of_stages_comes_back_and_is_not_taken_for_pooled(tmp_path: Path) -> None:
    classifier = _classifier()
    save_checkpoint(classifier, tmp_path / "a", label_map=SHAPES, trial=_trial("stages"))
    images_bchw = (torch.rand((2, 3, 64, 64), generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(load_classifier(tmp_path / "a")(images_bchw), classifier(images_bchw))
    with pytest.raises(CheckpointError, match=r"'stages'\) is not the one that trial probe__s0 asks for.*'pooled'"):
        save_checkpoint(classifier, tmp_path / "b", label_map=SHAPES, trial=_trial("pooled"))
    assert not (tmp_path / "b").exists()


def test_export_onnx__of_stages_agrees_with_torch(tmp_path: Path) -> None:
    classifier = _classifier()
    export_onnx(classifier, tmp_path / "m.onnx", label_map=SHAPES, checkpoint_id="0")
    files = [encoded(noise(seed, width=90, height=70), "PNG") for seed in range(6)]
    report = check_parity(classifier, tmp_path / "m.onnx", files, label_map=SHAPES)
    assert report.problems == ()
    assert report.top1_flips == 0
    assert report.logit_range > 0.1
