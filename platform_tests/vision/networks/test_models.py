"""The classifier: normalisation inside, random parts from the seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from platform_assets.vision.networks.models import HeadDoesNotFit, build_classifier, initial_classifier, place
from platform_assets.vision.networks.plugins import BadPlugin
from platform_assets.vision.networks.weight_files import WeightPlaces, WeightsChanged, WeightsFile, weights_of
from platform_assets.vision.networks.weights import load_backbone, weights_sha256
from platform_assets.vision.recipes.resolving import ResolvedTrial, resolve_trial
from platform_assets.vision.recipes.variants import Variant
from platform_tests.vision.shapes import (
    PREPROCESSING,
    PROTOCOL,
    coloured_shapes,
    randomise_batch_norms,
    small_classifier,
)

IMAGES_BCHW = torch.from_numpy(coloured_shapes(4, seed=0).images_nchw)


def test_classifier__normalises_inside() -> None:
    classifier = small_classifier()
    randomise_batch_norms(classifier)
    by_hand_bchw = (IMAGES_BCHW.float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = classifier.head(classifier.backbone(by_hand_bchw))
        torch.testing.assert_close(classifier(IMAGES_BCHW), expected)
        torch.testing.assert_close(classifier.head(classifier.features(IMAGES_BCHW)), expected)


def test_classifier__other_statistics_give_other_logits() -> None:
    changed = PREPROCESSING.model_copy(update={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})
    classifiers = [build_classifier("baseline_cnn", 3, p, pretrained=False, seed=0) for p in (PREPROCESSING, changed)]
    with torch.inference_mode():
        logits = [classifier(IMAGES_BCHW) for classifier in classifiers]
    assert (logits[0] - logits[1]).abs().max() > 0.01


def test_classifier__keeps_the_statistics_out_of_the_weights() -> None:
    assert not {"mean", "std"} & small_classifier().state_dict().keys()


def test_build_classifier__weights_follow_from_the_seed_alone() -> None:
    torch.manual_seed(99)
    first = weights_sha256(small_classifier(seed=1))
    assert weights_sha256(small_classifier(seed=1)) == first
    assert weights_sha256(small_classifier(seed=2)) != first


def test_build_classifier__leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    small_classifier()
    assert torch.equal(torch.rand(1), expected)


def test_build_classifier__refuses_one_class() -> None:
    with pytest.raises(HeadDoesNotFit, match="1 classes"):
        build_classifier("baseline_cnn", 1, PREPROCESSING, pretrained=False, seed=0)


def test_parameter_count__counts_weights_and_not_statistics() -> None:
    classifier = small_classifier()
    assert classifier.parameter_count == sum(p.numel() for p in classifier.backbone.parameters()) + 256 * 3 + 3


def test_place__changes_the_layout_and_not_the_answer() -> None:
    classifier = small_classifier()
    randomise_batch_norms(classifier)
    with torch.inference_mode():
        before = classifier(IMAGES_BCHW)
        after = place(classifier, "cpu")(IMAGES_BCHW)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert classifier.get_parameter("backbone.stem.0.weight").is_contiguous(memory_format=torch.channels_last)


def _trial(variant: Variant, places: WeightPlaces) -> tuple[ResolvedTrial, WeightsFile | None]:
    found = weights_of(variant, places)
    sha256 = found.sha256 if found else None
    return resolve_trial(variant, name="v", seed=3, protocol=PROTOCOL, pretrained_sha256=sha256), found


def test_initial_classifier__starts_from_the_file_of_its_variant(tmp_path: Path) -> None:
    torch.manual_seed(7)
    stored = load_backbone("timm/test_vit", pretrained=False, image_size_px=64)
    save_file(stored.state_dict(), tmp_path / "w.safetensors")
    variant = Variant(backbone="timm/test_vit", mode="finetune", weights="w.safetensors")
    trial, found = _trial(variant, WeightPlaces(tmp_path, tmp_path / "data"))
    classifier = initial_classifier(trial, 3, found)
    assert classifier(IMAGES_BCHW).shape == (4, 3)
    blocks = classifier.backbone.get_submodule("blocks")
    assert weights_sha256(blocks) == weights_sha256(stored.get_submodule("blocks"))
    with pytest.raises(WeightsChanged, match=r"trial v__s3 starts from weights .* given is None \(no file\)"):
        initial_classifier(trial, 3, None)
    save_file(stored.state_dict() | {"norm.bias": torch.ones(64)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsChanged, match=r"w\.safetensors\); find them with weight_files\.weights_of"):
        initial_classifier(trial, 3, weights_of(variant, WeightPlaces(tmp_path, tmp_path)))


def test_initial_classifier__random_where_that_is_asked_for(tmp_path: Path) -> None:
    variant = Variant(backbone="timm/test_vit", mode="finetune", pretrained=False)
    trial, found = _trial(variant, WeightPlaces(tmp_path, tmp_path))
    assert trial.starts_random
    again = build_classifier("timm/test_vit", 3, trial.preprocessing, pretrained=False, seed=3)
    assert weights_sha256(initial_classifier(trial, 3, found)) == weights_sha256(again)


def test_initial_classifier__checks_a_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = "from torch import nn\ndef build(image_size_px):\n    return nn.Flatten()\n"
    (tmp_path / "kestrel_test_models_plugin.py").write_text(source)
    variant = Variant(model="kestrel_test_models_plugin:build", mode="scratch")
    trial, found = _trial(variant, WeightPlaces(tmp_path, tmp_path))
    with pytest.raises(BadPlugin, match=r"model kestrel_test_models_plugin:build: .*feature_dim None"):
        initial_classifier(trial, 3, found)
