"""The baseline network: pinned, and able to learn."""

from __future__ import annotations

import pytest
import torch

from platform_assets.vision.networks.baseline_cnn import BaselineCnn
from platform_assets.vision.networks.weights import load_backbone, weights_sha256
from platform_assets.vision.recipes.backbones import get_backbone


def test_baseline_cnn__known_answer_at_seed_0() -> None:
    torch.manual_seed(0)
    model = load_backbone("baseline_cnn", pretrained=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_207_840
    assert weights_sha256(model).startswith("db5908794c775714")
    images = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    with torch.inference_mode():
        features = model(images)
    assert features.shape == (1, get_backbone("baseline_cnn").feature_dim)
    expected = torch.tensor([0.0539, 0.0514, 0.0, 0.0439, 0.0348])
    torch.testing.assert_close(features[0, :5], expected, atol=2e-4, rtol=0)
    assert float(features.sum()) == pytest.approx(16.6848, abs=1e-2)


@pytest.mark.parametrize("image_size_px", [16, 33, 128])
def test_baseline_cnn__takes_any_size(image_size_px: int) -> None:
    assert BaselineCnn().eval()(torch.zeros(2, 3, image_size_px, image_size_px)).shape == (2, 256)


def test_baseline_cnn__every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = BaselineCnn().train()
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    still = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert still == []
