"""Recipes as YAML gives them, and what a trial is after every default."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from platform_assets.vision.recipes.backbones import SizeDoesNotFit
from platform_assets.vision.recipes.resolving import (
    CropToBox,
    ProbeRecipe,
    Protocol,
    ResolvedTrial,
    WeightsNotFound,
    resolve_trial,
    trial_key,
)
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.recipes.variants import Variant

PROTOCOL = Protocol(dataset="cells", experiment="binary", metric="top1", label_map_checksum="ab" * 32)
PROBE = Variant(backbone="tf_efficientnet_lite0", mode="linear_probe")
SCRATCH = Variant(backbone="baseline_cnn", mode="scratch")
FINETUNE = Variant(backbone="tf_efficientnet_lite0", mode="finetune")


def _resolved(variant: Variant, *, name: str = "v", seed: int = 0, protocol: Protocol = PROTOCOL) -> ResolvedTrial:
    return resolve_trial(variant, name=name, seed=seed, protocol=protocol)


@pytest.mark.parametrize(
    ("given_options", "said"),
    [
        ({"mode": "scratch"}, "backbone"),
        ({"backbone": "baseline_cnn"}, "mode"),
        ({"backbone": "resnet5000", "mode": "scratch"}, "'resnet5000' is not known"),
        (
            {"backbone": "baseline_cnn", "mode": "scrach"},
            "'scratch', 'linear_probe', 'nearest_mean', 'knn'",
        ),
        ({"backbone": "baseline_cnn", "mode": "scratch", "epochs": 3}, "Extra inputs are not permitted"),
        ({"backbone": "baseline_cnn", "mode": "scratch", "train": {"epoch": 3}}, "train.epoch"),
        (
            {"backbone": "baseline_cnn", "mode": "scratch", "probe": {}},
            "option 'probe' has no meaning in mode 'scratch'",
        ),
        ({"backbone": "tf_efficientnet_lite0", "mode": "linear_probe", "train": {}}, "option 'train' has no meaning"),
        ({"backbone": "baseline_cnn", "mode": "finetune"}, "use mode 'scratch' or a pretrained backbone"),
        ({"backbone": "baseline_cnn", "mode": "linear_probe"}, "use mode 'scratch' or a pretrained backbone"),
        (
            {"backbone": "baseline_cnn", "mode": "scratch", "train": {"backbone_learning_rate_factor": 0.5}},
            "'train.backbone_learning_rate_factor' 0.5 has no meaning",
        ),
        ({"backbone": "baseline_cnn", "mode": "scratch", "seeds": [0, 0]}, "name one seed twice"),
        ({"backbone": "baseline_cnn", "mode": "scratch", "seeds": []}, "seeds"),
        ({"backbone": "baseline_cnn", "mode": "scratch", "image_size_px": 8}, "image_size_px"),
    ],
)
def test_variant__refuses_what_it_cannot_do(given_options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Variant.model_validate(given_options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        (ProbeRecipe, {"log10_c_min": 1, "log10_c_max": 0}, "swap them"),
        (ProbeRecipe, {"points": 1}, "one point needs equal ends"),
        (ProbeRecipe, {"log10_c_min": 1, "log10_c_max": 1}, "one point needs equal ends"),
        (TrainRecipe, {"epochs": 2, "warmup_epochs": 3}, "longer than the 2 epochs"),
        (TrainRecipe, {"learning_rate": float("nan")}, "finite number"),
        (TrainRecipe, {"learning_rate": 0}, "greater than 0"),
    ],
)
def test_recipe__refuses_impossible_numbers(recipe: type, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        recipe(**options)


def test_probe_recipe__grid_ascends_from_end_to_end() -> None:
    assert ProbeRecipe(log10_c_min=-2, log10_c_max=1, points=4).log10_c_grid == (-2.0, -1.0, 0.0, 1.0)
    assert ProbeRecipe(log10_c_min=-1, log10_c_max=-1, points=1).log10_c_grid == (-1.0,)


def test_resolve_trial__fills_in_the_defaults_of_the_mode() -> None:
    probe, scratch, finetune = (_resolved(variant) for variant in (PROBE, SCRATCH, FINETUNE))
    assert (probe.probe, probe.train) == (ProbeRecipe(), None)
    assert (finetune.probe, finetune.train) == (None, TrainRecipe())
    assert scratch.train is not None
    assert scratch.train.backbone_learning_rate_factor == 1.0
    assert scratch.pretrained_sha256 is None
    assert finetune.pretrained_sha256 == probe.pretrained_sha256 is not None


def test_resolve_trial__size_of_variant_before_experiment_before_backbone() -> None:
    sized = PROTOCOL.model_copy(update={"image_size_px": 96})
    small = Variant(backbone="baseline_cnn", mode="scratch", image_size_px=64)
    sizes = [_resolved(v, protocol=p).preprocessing.image_size_px for v, p in ((small, sized), (SCRATCH, sized))]
    assert [*sizes, _resolved(PROBE).preprocessing.image_size_px] == [64, 96, 224]


def test_config_hash__is_the_sha256_of_the_canonical_json() -> None:
    trial = _resolved(PROBE)
    text = trial.canonical_json()
    assert trial.config_hash == hashlib.sha256(text.encode()).hexdigest()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert ResolvedTrial.model_validate_json(text) == trial


def test_config_hash__crop_to_box_counts_only_when_it_is_set() -> None:
    """The hash of a trial without it is pinned; it changes with every new option of a training, not with this one."""
    assert _resolved(FINETUNE).config_hash == "6ded9d216689f484b0a0ecf797f02ada83704229a669ac6b083002cedea843df"
    cropped = [PROTOCOL.model_copy(update={"crop_to_box": CropToBox(margin=margin)}) for margin in (0.0, 0.1)]
    hashes = {_resolved(FINETUNE, protocol=protocol).config_hash for protocol in (PROTOCOL, *cropped)}
    assert len(hashes) == 3
    assert _resolved(PROBE, protocol=cropped[1]).preprocessing.box_margin == 0.1
    with pytest.raises(ValidationError, match="margin"):
        CropToBox(margin=-0.1)


def test_config_hash__a_default_written_out_changes_nothing() -> None:
    written = Variant(
        backbone="tf_efficientnet_lite0", mode="finetune", image_size_px=224, train=TrainRecipe(epochs=30)
    )
    assert _resolved(written).config_hash == _resolved(FINETUNE).config_hash


@pytest.mark.parametrize(
    "other",
    [
        _resolved(FINETUNE, seed=1),
        _resolved(FINETUNE, name="w"),
        _resolved(PROBE),
        _resolved(Variant(backbone="tf_efficientnet_lite1", mode="finetune", image_size_px=224)),
        _resolved(Variant(backbone="tf_efficientnet_lite0", mode="finetune", train=TrainRecipe(weight_decay=0.06))),
        _resolved(FINETUNE, protocol=PROTOCOL.model_copy(update={"metric": "macro_f1"})),
        _resolved(FINETUNE, protocol=PROTOCOL.model_copy(update={"label_map_checksum": "cd" * 32})),
        _resolved(FINETUNE, protocol=PROTOCOL.model_copy(update={"resize": "shorter_side"})),
    ],
)
def test_config_hash__every_fact_counts(other: ResolvedTrial) -> None:
    assert other.config_hash != _resolved(FINETUNE).config_hash


@given(st.from_regex(r"^[a-z0-9]+([_-][a-z0-9]+)*\Z").filter(lambda name: len(name) <= 60), st.integers(0, 2**31 - 1))
def test_trial_key__splits_back_into_variant_and_seed(name: str, seed: int) -> None:
    trial = _resolved(SCRATCH, name=name, seed=seed)
    assert trial.trial == trial_key(name, seed)
    assert trial.trial.split("__s") == [name, str(seed)]


@pytest.mark.parametrize("name", ["a__b", "Probe", "a|b", "", "_a", "a b", "a/b"])
def test_resolved_trial__refuses_names_that_make_no_key(name: str) -> None:
    with pytest.raises(ValidationError, match="variant"):
        _resolved(SCRATCH, name=name)


def test_resolved_trial__holds_the_recipe_of_its_mode_alone() -> None:
    fields = _resolved(PROBE).model_dump() | {"train": TrainRecipe().model_dump()}
    with pytest.raises(ValidationError, match="recipe 'probe' alone"):
        ResolvedTrial.model_validate(fields)


SHA256 = "cd" * 32
VIT = "vit_small_patch14_reg4_dinov2.lvd142m"


@pytest.mark.parametrize(
    ("given_options", "said"),
    [
        ({"backbone": VIT, "mode": "scratch", "weights": "w.pth"}, "'weights' has no meaning in mode 'scratch'"),
        ({"backbone": VIT, "mode": "finetune", "weights": "w.onnx"}, "weights"),
        ({"backbone": VIT, "mode": "scratch", "train": {"crop_size_px": 112}}, "'train.crop_size_px' is for networks that"),
        ({"backbone": VIT, "mode": "finetune", "parts": {"stride_px": 17}}, "parts.stride_px 17 is more than the 14 pixels"),
        ({"backbone": VIT, "mode": "linear_probe", "parts": {}}, "'parts' is for networks that are trained"),
        ({"backbone": "resnet18.a1_in1k", "mode": "finetune", "parts": {}}, "'parts' is for vision transformers"),
        ({"backbone": VIT, "mode": "finetune", "parts": {}, "train": {"mixup": 0.2}}, "set parts.contrast_weight: 0 or"),
        ({"backbone": VIT, "mode": "finetune", "weights": "w.pth", "pretrained": False}, "exclude each other"),
        ({"backbone": VIT, "mode": "linear_probe", "pretrained": False}, "'pretrained' false is for mode 'finetune'"),
        ({"backbone": VIT, "mode": "scratch", "pretrained": False}, "'pretrained' false is for mode 'finetune'"),
        ({"backbone": VIT, "mode": "scratch", "image_size_px": 225}, "patches of 'vit_small_patch14_reg4_dinov2.lvd142m'"),
        ({"backbone": VIT, "model": "m:build", "mode": "scratch"}, "'backbone' and 'model' exclude each other"),
        ({"backbone": "m:build", "mode": "scratch"}, "name it as `model: m:build`"),
        ({"model": "m.build", "mode": "scratch"}, "model"),
        ({"model": "m:build", "mode": "linear_probe", "weights": "w.pth"}, "'model' is for modes 'scratch' and 'finetune'"),
        ({"model": "m:build", "mode": "finetune"}, "name a file with `weights: PATH`"),
        ({"backbone": "vit_base_patch16_siglip_224.v2_webli", "mode": "linear_probe", "features": "cls"}, "no class token"),
    ],
)  # fmt: skip
def test_variant__refuses_starts_that_cannot_be(given_options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Variant.model_validate(given_options)
    assert said in str(caught.value)


def test_variant__a_plug_in_goes_by_its_name() -> None:
    variant = Variant(model="my.models:build", mode="scratch")
    assert variant.backbone == "my.models:build"
    assert Variant.model_validate(variant.model_dump()) == variant


def test_resolve_trial__is_of_the_bytes_of_its_file() -> None:
    variant = Variant(backbone=VIT, mode="linear_probe", features="tokens", image_size_px=224)
    with pytest.raises(WeightsNotFound, match=f"variant 'v': {VIT} is not known by its bytes yet"):
        _resolved(variant)
    trial = resolve_trial(variant, name="v", seed=0, protocol=PROTOCOL, pretrained_sha256=SHA256)
    assert (trial.pretrained_sha256, trial.starts_random) == (SHA256, False)
    assert trial.architecture is not None
    assert (trial.architecture.patch_px, trial.architecture.register_tokens) == (14, 4)
    assert ResolvedTrial.model_validate_json(trial.canonical_json()) == trial
    other = resolve_trial(variant, name="v", seed=0, protocol=PROTOCOL, pretrained_sha256="ef" * 32)
    assert other.config_hash != trial.config_hash


def test_resolve_trial__a_file_of_ones_own_stands_in_for_the_package() -> None:
    variant = Variant(backbone="tf_efficientnet_lite0", mode="finetune", weights="w.pth")
    with pytest.raises(WeightsNotFound, match=r"w\.pth is not known by its bytes yet"):
        _resolved(variant)
    found = resolve_trial(variant, name="v", seed=0, protocol=PROTOCOL, pretrained_sha256=SHA256)
    assert found.pretrained_sha256 == SHA256 != _resolved(FINETUNE).pretrained_sha256


def test_resolve_trial__a_finetune_of_random_weights_says_so() -> None:
    trial = _resolved(Variant(backbone=VIT, mode="finetune", pretrained=False, image_size_px=224))
    assert (trial.pretrained_sha256, trial.starts_random) == (None, True)
    assert not _resolved(SCRATCH).starts_random
    assert not _resolved(FINETUNE).starts_random


def test_resolve_trial__the_source_of_a_plug_in_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    hashes = set()
    for source in ("def build(): ...\n", "def build(): ... # changed\n"):
        (tmp_path / "kestrel_test_recipe_plugin.py").write_text(source)
        trial = _resolved(Variant(model="kestrel_test_recipe_plugin:build", mode="scratch"))
        assert trial.plugin_sha256 == hashlib.sha256(source.encode()).hexdigest()
        hashes.add(trial.config_hash)
    assert len(hashes) == 2


def test_canonical_json__says_nothing_of_transformers_and_plug_ins_where_there_are_none() -> None:
    assert not {"architecture", "plugin_sha256"} & json.loads(_resolved(FINETUNE).canonical_json()).keys()


def test_resolve_preprocessing__a_size_of_the_experiment_has_to_fit_too() -> None:
    sized = PROTOCOL.model_copy(update={"image_size_px": 225})
    variant = Variant(backbone=VIT, mode="scratch")
    with pytest.raises(SizeDoesNotFit, match="use 224 or 238"):
        _resolved(variant, protocol=sized)
