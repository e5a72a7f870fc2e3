"""The exponent of made spectra, and what importing WeightWatcher must not do."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
import torch
from torch import nn

from platform_assets.vision.evaluation.spectral_alpha import SpectralUnavailable, require_weightwatcher, spectral_alpha


def layer_of(eigenvalues: np.ndarray) -> nn.Linear:
    """A layer whose weights have these squared singular values, and random directions."""
    generator, size = np.random.default_rng(0), len(eigenvalues)
    left, _ = np.linalg.qr(generator.normal(size=(size, size)))
    right, _ = np.linalg.qr(generator.normal(size=(2 * size, size)))
    layer = nn.Linear(2 * size, size)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy((left * np.sqrt(eigenvalues)) @ right.T))
    return layer


@pytest.mark.slow  # the import alone takes 9 s
@pytest.mark.parametrize("alpha", [2.5, 3.5])
def test_spectral_alpha__is_the_exponent_of_the_power_law(alpha: float) -> None:
    eigenvalues = (1 - (np.arange(300) + 0.5) / 300) ** (-1 / (alpha - 1))
    network = nn.Sequential(layer_of(eigenvalues))
    before = network[0].weight.clone()
    assert spectral_alpha(network) == pytest.approx(alpha, rel=0.1)
    assert torch.equal(network[0].weight, before)


@pytest.mark.slow
def test_spectral_alpha__of_small_layers_is_none() -> None:
    assert spectral_alpha(nn.Sequential(nn.Linear(20, 10), nn.Conv2d(8, 8, 3, groups=8))) is None


@pytest.mark.slow
def test_require_weightwatcher__leaves_logging_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    for name in [name for name in sys.modules if name.split(".")[0] == "weightwatcher"]:
        del sys.modules[name]
    require_weightwatcher()
    assert (root.handlers, root.level) == before
    assert "".join(capfd.readouterr()) == ""


def test_require_weightwatcher__names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weightwatcher", None)
    with pytest.raises(SpectralUnavailable, match=r"needs the extra `spectral`: .*kestrel-vision\[spectral\]"):
        spectral_alpha(nn.Linear(100, 100))
