"""Every head on a classifier: saved, rebuilt from the files alone, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from platform_assets.vision.heads.modules import NeighbourHead, UnitLinear, logits_of_features
from platform_assets.vision.heads.tree_head import TreeHead
from platform_assets.vision.networks.checkpoints import CheckpointError, load_classifier, save_checkpoint
from platform_assets.vision.networks.exporting import check_parity, export_onnx
from platform_assets.vision.networks.models import build_classifier
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.resolving import ResolvedTrial, resolve_trial
from platform_assets.vision.recipes.variants import Variant
from platform_assets.vision.trials.fitting import fit_probe_trial
from platform_tests.vision.heads.test_nearest import clouds
from platform_tests.vision.pictures import encoded, noise
from platform_tests.vision.shapes import PREPROCESSING, PROTOCOL, SHAPES, randomise_batch_norms

LITE0 = "tf_efficientnet_lite0"
MODES: dict[str, tuple[type[torch.nn.Module], dict[str, Any]]] = {
    "linear_probe": (torch.nn.Linear, {"probe": {"points": 2, "feature_choices": "all"}}),
    "l2": (
        UnitLinear,
        {"mode": "linear_probe", "probe": {"points": 2, "scaling": "l2", "feature_choices": ["stages"]}},
    ),
    "nearest_mean": (UnitLinear, {}),
    "euclidean": (torch.nn.Linear, {"mode": "nearest_mean", "nearest_mean": {"distance": "euclidean"}}),
    "knn": (NeighbourHead, {"knn": {"k": [3]}}),
    "lightgbm": (TreeHead, {"lightgbm": {"rounds": 3}}),
}


def _trial(mode: str, **fields: Any) -> ResolvedTrial:
    variant = Variant.model_validate(
        {"backbone": LITE0, "mode": mode, "features": "stages", **MODES[mode][1], **fields}
    )
    return resolve_trial(variant, name="v", seed=0, protocol=PROTOCOL)


def _frames(width: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Records and vectors of 60 images, 45 of them train."""
    vectors_nd, labels_n = clouds(60, seed=4, width=width)
    ids = [f"{row:064x}" for row in range(60)]
    records = pl.DataFrame({"image_id": ids, "path": ids, "label": [SHAPES.names[label] for label in labels_n]})
    records = records.with_columns(split=pl.Series(["train"] * 45 + ["val"] * 15))
    vectors = pl.DataFrame({"image_id": ids, "vector": pl.Series(vectors_nd, dtype=pl.Array(pl.Float32, width))})
    return records, vectors


@pytest.mark.parametrize("mode", MODES)
def test_fit_probe_trial__gives_a_classifier_that_comes_back_from_its_files(mode: str, tmp_path: Path) -> None:
    trial, (records, vectors) = _trial(mode), _frames(2688)
    fitted = fit_probe_trial(trial, records, vectors, SHAPES)
    assert type(fitted.classifier.head) is MODES[mode][0]
    assert fitted.history["chosen"].sum() == 1
    first = save_checkpoint(fitted.classifier, tmp_path / "a", label_map=SHAPES, trial=trial)
    again = fit_probe_trial(trial, records, vectors, SHAPES).classifier
    assert save_checkpoint(again, tmp_path / "b", label_map=SHAPES, trial=trial) == first
    loaded = load_classifier(tmp_path / "a")
    assert type(loaded.head) is MODES[mode][0]
    features_nd = vectors["vector"].to_numpy(writable=True)
    logits_nk = logits_of_features(fitted.classifier.head, features_nd)
    np.testing.assert_array_equal(logits_of_features(loaded.head, features_nd), logits_nk)
    assert (logits_nk.argmax(axis=1) == np.arange(60) % 3).mean() > 0.9


def test_fit_probe_trial__a_linear_head_is_zero_outside_of_its_part() -> None:
    trial = _trial("linear_probe", probe={"points": 2, "feature_choices": ["stages"]})
    head = fit_probe_trial(trial, *_frames(2688), SHAPES).classifier.head
    pooled = get_backbone(LITE0).dim("pooled")
    assert head.weight.shape == (3, 2688)
    assert not head.weight[:, -pooled:].any()
    assert head.weight[:, :-pooled].abs().min(dim=1).values.max() > 0


@pytest.mark.parametrize(
    ("mode", "lacks"), [("l2", "unit.shift_s"), ("knn", "labels_n"), ("knn", "k"), ("lightgbm", "root_t")]
)
def test_load_classifier__names_what_a_head_lacks(mode: str, lacks: str, tmp_path: Path) -> None:
    trial = _trial(mode)
    classifier = fit_probe_trial(trial, *_frames(2688), SHAPES).classifier
    save_checkpoint(classifier, tmp_path, label_map=SHAPES, trial=trial)
    path = tmp_path / "ckpt.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors[f"head.{lacks}"]
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=rf"does not fit its config.*head\.{lacks} is missing"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("mode", ["nearest_mean", "knn", "lightgbm"])
def test_export_onnx__of_every_head_agrees_with_torch(mode: str, tmp_path: Path) -> None:
    classifier = build_classifier("baseline_cnn", 3, PREPROCESSING, pretrained=False, seed=0)
    randomise_batch_norms(classifier)
    files = [encoded(noise(seed, width=40, height=40), "PNG") for seed in range(10)]
    records, _ = _frames(256)
    pixels = torch.randint(0, 256, (60, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features_nd = classifier.features(pixels // torch.arange(1, 61)[:, None, None, None]).numpy()
    vectors = pl.DataFrame({"image_id": records["image_id"], "vector": features_nd})
    trial = _trial(mode, features="pooled")
    classifier.head = fit_probe_trial(trial, records, vectors, SHAPES).classifier.head
    export_onnx(classifier, tmp_path / "m.onnx", label_map=SHAPES, checkpoint_id="0")
    report = check_parity(classifier, tmp_path / "m.onnx", files, label_map=SHAPES, batch_size=3)
    assert report.problems == ()
    assert report.top1_flips == 0
