"""The registry of backbones, without torch, and its figures against timm's."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from platform_assets.vision.recipes.backbones import (
    BACKBONES,
    Backbone,
    SizeDoesNotFit,
    UnknownBackbone,
    get_backbone,
    known_now,
    require_spelling,
)

OF_TIMM = [name for name, entry in BACKBONES.items() if entry.timm_name]
DINOV2, SIGLIP = get_backbone("vit_small_patch14_reg4_dinov2.lvd142m"), "vit_base_patch16_siglip_224.v2_webli"


def test_get_backbone__unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownBackbone, match=r"'resnet9000'.*baseline_cnn, .*tf_efficientnet_lite0.*timm/NAME"):
        get_backbone("resnet9000")


def test_backbones__stand_under_their_own_names() -> None:
    assert {name: get_backbone(name).name for name in BACKBONES} == {name: name for name in BACKBONES}


@pytest.mark.parametrize("backbone", BACKBONES.values(), ids=list(BACKBONES))
def test_backbones__what_comes_pretrained_states_licence_and_source(backbone: Backbone) -> None:
    assert backbone.licence
    assert backbone.has_weights == (backbone.weights_licence is not None)
    assert re.search(r"arXiv \d{4}\.\d{4,5}", backbone.citation)
    assert re.fullmatch(r"[A-Za-z0-9_.]+", backbone.slug), "the cache of embeddings takes no other names"


@pytest.mark.parametrize("name", OF_TIMM)
def test_backbones__every_figure_is_timms(name: str) -> None:
    from platform_assets.vision.networks.timm_facts import read_backbone

    ours = get_backbone(name)
    theirs = read_backbone(str(ours.timm_name), name=name)
    static = set(Backbone.model_fields) - {"citation", "weights", "hub", "stages_dim", "weights_licence"}
    assert ours.model_dump(include=static) == theirs.model_dump(include=static)
    assert ours.weights_licence is not None
    assert ours.weights_licence.lower() == theirs.weights_licence
    assert ours.weights or ours.hub == theirs.hub


@pytest.mark.parametrize("name", OF_TIMM)
def test_backbones__weights_meet_the_activation_they_were_trained_with(name: str) -> None:
    """OpenAI's CLIP fits timm's plain architecture without an error, and gives other features there."""
    import timm

    config = timm.get_pretrained_cfg(get_backbone(name).timm_name)
    native = any("natively QuickGELU" in note for note in config.notes or ())
    assert native == ("quickgelu" in name)


def test_backbones__cover_the_families_of_vision_transformers() -> None:
    shapes = {(e.transformer.patch_px, e.transformer.register_tokens) for e in BACKBONES.values() if e.transformer}
    assert shapes == {(32, 0), (16, 0), (14, 0), (14, 4), (16, 4)}
    assert {entry.normalization for entry in BACKBONES.values()} == {"imagenet", "half", "clip"}


def test_preprocessing__takes_the_size_asked_for_and_crops_the_shorter_side_only() -> None:
    backbone = get_backbone("tf_efficientnet_lite0")
    assert backbone.preprocessing().image_size_px == 224
    assert backbone.preprocessing(image_size_px=160).image_size_px == 160
    assert backbone.preprocessing().crop_fraction == 1.0
    assert backbone.preprocessing(resize="shorter_side").crop_fraction == 0.875
    assert DINOV2.preprocessing().mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("size_px", "said"), [(224, None), (98, None), (225, "use 224 or 238"), (237, "use 224 or 238"), (13, "use 14$")]
)
def test_require_size__names_the_nearest_that_the_patches_fill(size_px: int, said: str | None) -> None:
    if said is None:
        assert DINOV2.require_size(size_px) == DINOV2.preprocessing(image_size_px=size_px).image_size_px == size_px
        return
    with pytest.raises(SizeDoesNotFit, match=f"{size_px} is no multiple of the 14 px patches .*{said}"):
        DINOV2.require_size(size_px)


def test_require_size__cnns_take_any() -> None:
    assert get_backbone("resnet18.a1_in1k").require_size(225) == 225


def test_dim__follows_from_what_the_features_are() -> None:
    assert {kind: DINOV2.dim(kind) for kind in ("pooled", "cls", "mean", "cls_mean", "tokens")} == {  # type: ignore[arg-type]
        "pooled": 384,
        "cls": 384,
        "mean": 384,
        "cls_mean": 768,
        "tokens": 1920,
    }
    assert get_backbone(SIGLIP).dim("mean") == 768
    lite0 = get_backbone("tf_efficientnet_lite0")
    assert (lite0.dim("pooled"), lite0.dim("stages")) == (1280, 2688)


@pytest.mark.parametrize(
    ("name", "features", "said"),
    [
        ("baseline_cnn", "stages", "'baseline_cnn' has no features of stages; use features: pooled"),
        ("resnet18.a1_in1k", "cls", "'resnet18.a1_in1k' is no plain transformer .* has no features 'cls'"),
        (SIGLIP, "cls", "has no class token for features 'cls'; use features: pooled or mean"),
        (SIGLIP, "tokens", "has no class token for features 'tokens'"),
        ("my_models:build", "pooled", "only its code knows"),
    ],
)
def test_dim__refuses_features_that_a_backbone_has_not(name: str, features: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        get_backbone(name).dim(features)  # type: ignore[arg-type]


def test_transformer__prefix_is_class_and_register_tokens() -> None:
    assert DINOV2.transformer is not None
    assert DINOV2.transformer.prefix_tokens == 5
    assert (DINOV2.architecture, get_backbone("baseline_cnn").architecture) == ("transformer", "cnn")


@pytest.mark.parametrize("name", ["baseline_cnn", "timm/convnext_nano.in12k", "my.models:build", "m:B2"])
def test_require_spelling__takes_what_can_be_a_backbone(name: str) -> None:
    assert require_spelling(name) == name


@pytest.mark.parametrize(
    "name", ["", "timm/", "timm/../x", "timm/A", "my.models", "a:b:c", "1a:b", "a:b c", "timm/x:y"]
)
def test_require_spelling__refuses_what_cannot(name: str) -> None:
    with pytest.raises(UnknownBackbone, match="is not known"):
        require_spelling(name)


def test_known_now__imports_nothing_for_other_models_of_timm() -> None:
    # The code location imports these; torch costs it seconds and half a gigabyte.
    program = (
        "import sys; from platform_assets.vision.recipes import backbones, preprocessing, resolving, variants;"
        "from platform_assets.vision.machine import devices; from platform_assets.vision.networks import weight_files;"
        "assert backbones.known_now('timm/test_vit') is None;"
        "variants.Variant(backbone='timm/test_vit', mode='finetune');"
        "variants.Variant(model='a:b', mode='scratch');"
        "print(sorted({'torch', 'timm', 'numpy', 'PIL', 'polars', 'huggingface_hub', 'filelock'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert known_now("baseline_cnn") == get_backbone("baseline_cnn")


def test_get_backbone__reads_other_models_from_timm() -> None:
    found = get_backbone("timm/test_vit3")
    assert (found.name, found.timm_name, found.slug) == ("timm/test_vit3", "test_vit3", "test_vit3")
    assert found.transformer is not None
    assert found.transformer.model_dump() == {
        "patch_px": 16,
        "embed_dim": 96,
        "depth": 9,
        "heads": 3,
        "class_token": False,
        "register_tokens": 1,
    }
    assert (found.normalization, found.image_size_px, found.crop_fraction) == ("half", 160, 0.95)
    assert found.hub is not None
    assert found.hub.repo == "timm/test_vit3.r160_in1k"
    # A pyramid of windows is no sequence of equal blocks.
    assert get_backbone("timm/swin_tiny_patch4_window7_224.ms_in1k").transformer is None
    # Nor is one whose positions are within its attention, and that is built for a grid otherwise.
    assert get_backbone("timm/test_vit_relpos").transformer is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm/test_vitt", "timm has no model 'test_vitt'; did you mean test_vit"),
        ("timm/test_vit.no_such_tag", "timm has no model"),
        ("timm/dpn68.mx_in1k", "wants mean .* which has no name here"),
        ("timm/mobilenetv5_300m_enc", r"makes \(1, 2048, 16, 16\) of an image and no vector"),
    ],
)
def test_get_backbone__says_what_is_wrong_with_a_model_of_timm(name: str, said: str) -> None:
    with pytest.raises(UnknownBackbone, match=said):
        get_backbone(name)
