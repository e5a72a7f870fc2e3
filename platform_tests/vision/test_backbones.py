"""The registry of backbones, without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from platform_assets.vision.backbones import BACKBONES, Backbone, UnknownBackbone, get_backbone


def test_get_backbone__unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownBackbone, match=r"'resnet9000'.*baseline_cnn, tf_efficientnet_lite0"):
        get_backbone("resnet9000")


def test_backbones__stand_under_their_own_names() -> None:
    assert {name: get_backbone(name).name for name in BACKBONES} == {name: name for name in BACKBONES}


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=list(BACKBONES))
def test_backbones__what_comes_pretrained_states_its_licence(backbone: Backbone) -> None:
    assert backbone.licence
    assert (backbone.weights is None) == (backbone.weights_licence is None)


@pytest.mark.parametrize("name", [name for name, entry in BACKBONES.items() if entry.timm_name])
def test_backbones__agree_with_timm_on_pixels(name: str) -> None:
    import timm

    backbone = get_backbone(name)
    theirs = timm.get_pretrained_cfg(backbone.timm_name).to_dict()
    assert (*theirs["input_size"][1:], theirs["crop_pct"]) == (
        backbone.image_size_px,
        backbone.image_size_px,
        backbone.crop_fraction,
    )
    assert (theirs["mean"], theirs["std"]) == (backbone.mean, backbone.std)
    assert theirs["interpolation"] == backbone.interpolation


def test_preprocessing__takes_the_size_asked_for_and_crops_the_shorter_side_only() -> None:
    backbone = get_backbone("tf_efficientnet_lite0")
    assert backbone.preprocessing().image_size_px == 224
    assert backbone.preprocessing(image_size_px=160).image_size_px == 160
    assert backbone.preprocessing().crop_fraction == 1.0
    assert backbone.preprocessing(resize="shorter_side").crop_fraction == 0.875


def test_dim__only_backbones_with_stages_have_their_features() -> None:
    lite0 = get_backbone("tf_efficientnet_lite0")
    assert (lite0.dim("pooled"), lite0.dim("stages")) == (1280, 2688)
    with pytest.raises(ValueError, match="'baseline_cnn' has no features of stages; use features: pooled"):
        get_backbone("baseline_cnn").dim("stages")


def test_light_modules__load_no_heavy_library() -> None:
    # The code location imports these three; torch costs it seconds and half a gigabyte.
    program = (
        "import sys; from platform_assets.vision import backbones, devices, preprocessing;"
        "print(sorted({'torch', 'timm', 'numpy', 'PIL', 'polars'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
