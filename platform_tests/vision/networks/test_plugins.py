"""Networks of the user's own: built, known by their source, and refused for what would break later."""

from __future__ import annotations

import hashlib
import textwrap
from itertools import count
from pathlib import Path

import pytest
import torch

from platform_assets.vision.networks.plugins import BadPlugin, build_plugin, check_plugin, plugin_sha256

GOOD = """
from itertools import count
import torch
from torch import nn

numbers = count()


class Small(nn.Module):
    feature_dim = 8

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images_bchw):
        return self.norm(self.conv(images_bchw)).mean((2, 3))


def build(*, image_size_px):
    return Small()
"""
_numbers = count()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module that stands on the Python path until the test is over; gives `module:build`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str = GOOD, *, changed: dict[str, str] | None = None) -> str:
        for old, new in (changed or {}).items():
            assert old in source
            source = source.replace(old, new)
        name = f"kestrel_test_plugin_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return f"{name}:build"

    return write


def test_check_plugin__takes_a_sound_network(plugin) -> None:
    name = plugin()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    check_plugin(name, image_size_px=32)
    assert torch.equal(torch.rand(1), expected), "the check moved the global generator"
    assert build_plugin(name, image_size_px=32)(torch.zeros(2, 3, 32, 32)).shape == (2, 8)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"return Small()": "return 'Small'"}, "it returned str; return a torch.nn.Module"),
        ({"feature_dim = 8": "features = 8"}, "feature_dim None; set it to the width"),
        ({"feature_dim = 8": "feature_dim = 9"}, r"it gives \(3, 8\) instead of \(3, 9\)"),
        ({".mean((2, 3))": ""}, r"it gives \(3, 8, 15, 15\) instead of \(3, 8\)"),
        ({".mean((2, 3))": ".mean((0, 2, 3))"}, r"it gives \(8,\) instead of"),
        ({".mean((2, 3))": ".mean((2, 3)).reshape(2, -1)"}, r"it gives \(2, 12\) instead of"),
        ({".mean((2, 3))": ".mean((2, 3)) / 0"}, "not finite"),
        ({"nn.Conv2d(3,": "nn.Conv2d(1,"}, r"it fails on images \(3, 3, 32, 32\)"),
        ({"return Small()": "return Small().requires_grad_(False)"}, "no parameter that is trained"),
        (
            {"nn.BatchNorm2d(8)": "nn.Identity(); self.shift = torch.rand(8)", ".mean((2, 3))": ".mean((2, 3)) + self.shift"},
            "a fresh instance with the same state dict gives other features",
        ),
        (
            {"return Small()": "m = Small(); m.conv.bias.data.fill_(float(next(numbers))); return m"},
            "conv.bias differs between two builds at one seed",
        ),
        ({"nn.BatchNorm2d(8)": "nn.BatchNorm2d(8, track_running_stats=False)"}, "depend on the others of its batch"),
        ({"def build(": "def make("}, "has no callable 'build'; correct the name"),
        ({"def build(*, image_size_px)": "def build(size)"}, r"called as callable\(image_size_px=...\): missing a required"),
        ({".mean((2, 3))": ".mean((2, 3)).half()"}, "features are torch.float16; give float32"),
        ({".mean((2, 3))": ".mean((2, 3)).detach()"}, "no gradient reaches its parameters"),
        (
            {".mean((2, 3))": ".mean((2, 3))[: 2 if self.training else 3]"},
            r"of images \(3, 3, 32, 32\) it gives \(2, 8\) instead of \(3, 8\)",
        ),
    ],
)  # fmt: skip
def test_check_plugin__names_what_does_not_hold(plugin, changed: dict[str, str], said: str) -> None:
    name = plugin(changed=changed)
    with pytest.raises(BadPlugin, match=said) as caught:
        check_plugin(name, image_size_px=32)
    assert str(caught.value).startswith(f"model {name}: ")


def test_build_plugin__a_missing_module_names_the_cure() -> None:
    for name in ("no_such_module_of_ours:build", "no_such_package.models:build"):
        with pytest.raises(BadPlugin, match=r"no module '.*' on the Python path; put it into the project's package"):
            build_plugin(name, image_size_px=32)


def test_build_plugin__passes_the_size_on(plugin) -> None:
    name = plugin(changed={"return Small()": "m = Small(); m.px = image_size_px; return m"})
    assert build_plugin(name, image_size_px=48).px == 48


def test_plugin_sha256__is_of_the_source_which_is_not_run(plugin) -> None:
    source = "raise RuntimeError('the module was run')\n"
    assert plugin_sha256(plugin(source)) == hashlib.sha256(source.encode()).hexdigest()
