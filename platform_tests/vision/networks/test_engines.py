"""Engines of one module: equal to torch, exact per image, refused when they are not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from platform_assets.vision.networks.engines import (
    PREFERENCE,
    Engine,
    EngineName,
    FeatureExtractor,
    build_engine,
    choose_engine,
    measure_parity,
    probe_pixels,
)
from platform_assets.vision.networks.runtimes import EngineRefused, openvino_infer, torch_infer
from platform_assets.vision.networks.weights import load_backbone, weights_sha256
from platform_assets.vision.recipes.preprocessing import Preprocessing

SIZE_PX, BATCH = 32, 4
PIXELS = Preprocessing(
    image_size_px=SIZE_PX, resize="squash", interpolation="bilinear", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    """baseline_cnn with statistics as after a training: parity on fresh ones would prove less."""
    torch.manual_seed(0)
    model = load_backbone("baseline_cnn", pretrained=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


@pytest.fixture(scope="module")
def engines(backbone: nn.Module) -> dict[EngineName, Engine]:
    extractor = FeatureExtractor(backbone, PIXELS).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        return {
            name: build_engine(name, extractor, "cpu", image_size_px=SIZE_PX, batch_size=BATCH) for name in PREFERENCE
        }


def test_feature_extractor__normalises_by_channel(backbone: nn.Module) -> None:
    images = torch.randint(0, 256, (2, 3, SIZE_PX, SIZE_PX), dtype=torch.uint8)
    by_hand = images.double().numpy() / 255
    by_hand = (by_hand - np.reshape(PIXELS.mean, (1, 3, 1, 1))) / np.reshape(PIXELS.std, (1, 3, 1, 1))
    with torch.inference_mode():
        found = FeatureExtractor(backbone, PIXELS).eval()(images)
        torch.testing.assert_close(found, backbone(torch.from_numpy(by_hand).float()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PREFERENCE)
def test_engine__agrees_with_torch_on_any_number_of_images(
    name: EngineName, engines: dict[EngineName, Engine], backbone: nn.Module
) -> None:
    images = probe_pixels(2 * BATCH + 1, SIZE_PX)
    with torch.inference_mode():
        expected = FeatureExtractor(backbone, PIXELS).eval()(torch.from_numpy(images)).numpy()
    for count in (1, BATCH, 2 * BATCH + 1):
        found = engines[name].run(images[:count])
        assert (found.shape, found.dtype) == ((count, 256), np.float32)
        np.testing.assert_allclose(found, expected[:count], atol=1e-4)


@pytest.mark.parametrize("name", PREFERENCE)
def test_engine__vector_of_an_image_is_exact_whatever_is_beside_it(
    name: EngineName, engines: dict[EngineName, Engine]
) -> None:
    # The cache mixes vectors of many runs: a vector must not depend on the batch that it was computed in.
    images = probe_pixels(2 * BATCH, SIZE_PX)
    together = engines[name].run(images)
    for index in (0, BATCH - 1, 2 * BATCH - 1):
        np.testing.assert_array_equal(engines[name].run(images[index : index + 1])[0], together[index])
    np.testing.assert_array_equal(engines[name].run(images[::-1]), together[::-1])


def test_choose_engine__auto_takes_the_first_of_the_fixed_order(backbone: nn.Module) -> None:
    sha = weights_sha256(backbone)
    choice = choose_engine(backbone, PIXELS, "cpu", batch_size=BATCH)
    assert choice.engine.name == PREFERENCE[0]
    assert list(choice.parity) == [PREFERENCE[0]]
    parity = choice.parity[PREFERENCE[0]]
    assert 0 <= parity.max_abs_diff <= parity.tolerance
    assert parity.cosine > 0.999999
    assert choice.rate_images_s > 0
    assert weights_sha256(backbone) == sha


def test_choose_engine__takes_the_one_asked_for_and_leaves_the_module_as_it_was(backbone: nn.Module) -> None:
    assert choose_engine(backbone, PIXELS, "cpu", engine="torch", batch_size=BATCH).engine.name == "torch"
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    assert next(convolutions).weight.is_contiguous()


class CannotBeExported(nn.Module):
    """Its path depends on the pixels, which no exported graph can follow."""

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        return images_bchw.mean(dim=(2, 3)) * (2 if float(images_bchw.sum()) > 0 else 1)


def test_choose_engine__goes_on_to_torch_and_says_why() -> None:
    choice = choose_engine(CannotBeExported(), PIXELS, "cpu", batch_size=BATCH)
    assert choice.engine.name == "torch"
    assert {name: reason.split(":")[0] for name, reason in choice.refused.items()} == {
        "openvino": "openvino",
        "onnxruntime": "onnxruntime",
    }
    with pytest.raises(EngineRefused, match="'onnxruntime' on cpu is refused"):
        choose_engine(CannotBeExported(), PIXELS, "cpu", engine="onnxruntime", batch_size=BATCH)


class OtherOnEveryCall(nn.Module):
    """No engine can agree with it, not even torch with itself."""

    calls = 0

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        OtherOnEveryCall.calls += 1
        return images_bchw.mean(dim=(2, 3)) + self.calls


def test_choose_engine__no_parity_is_an_error_with_the_figures() -> None:
    with pytest.raises(EngineRefused, match=r"'torch' on cpu is refused .*max_abs_diff 1.* is over 0\.\d+"):
        choose_engine(OtherOnEveryCall(), PIXELS, "cpu", engine="torch", batch_size=BATCH)


def test_build_engine__cpu_runtimes_are_refused_for_other_devices(backbone: nn.Module) -> None:
    with pytest.raises(EngineRefused, match="'openvino' computes on the cpu here, not on mps"):
        choose_engine(backbone, PIXELS, "mps", engine="openvino", batch_size=BATCH)


@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this CPU has no bfloat16 to fall into")
def test_parity__sees_bfloat16(backbone: nn.Module, engines: dict[EngineName, Engine]) -> None:
    # What OpenVINO does by itself on such a CPU.
    extractor, images = FeatureExtractor(backbone, PIXELS).eval(), probe_pixels(BATCH, SIZE_PX)
    reference = torch_infer(extractor, "cpu", channels_last=False)(images)
    assert measure_parity(reference, engines["openvino"].run(images)).passed
    assert not measure_parity(reference, openvino_infer(extractor, images, precision="bf16")(images)).passed


def test_measure_parity__by_hand() -> None:
    reference = np.array([[1, 0], [0, 2]], np.float32)
    parity = measure_parity(reference, np.array([[1, 0.5], [0, 2]], np.float32))
    assert parity.max_abs_diff == 0.5
    assert parity.tolerance == pytest.approx(0.01 * 0.75)
    assert parity.cosine == pytest.approx(1 / np.sqrt(1.25))
    assert not parity.passed


def test_measure_parity__nan_never_passes() -> None:
    reference = np.ones((2, 3), np.float32)
    assert not measure_parity(reference, np.full((2, 3), np.nan, np.float32)).passed


def test_probe_pixels__same_on_every_call_and_spread_over_the_range() -> None:
    images = probe_pixels(8, SIZE_PX)
    np.testing.assert_array_equal(images, probe_pixels(8, SIZE_PX))
    assert images.shape == (8, 3, SIZE_PX, SIZE_PX)
    assert np.percentile(images, 5) < 60
    assert np.percentile(images, 95) > 190
