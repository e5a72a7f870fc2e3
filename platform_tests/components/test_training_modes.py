"""Every way of training, through the graph: heads on token features, part attention, a search, folds, weights of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import timm
import torch
from safetensors.torch import save_file

from platform_assets.stores.tables import Tables
from platform_assets.vision.networks.checkpoints import load_classifier
from platform_assets.vision.networks.ensembles import Ensemble
from platform_assets.vision.networks.part_attention import PartAttention
from platform_tests.components.projects import (
    RECORDS,
    Project,
    dataset_yaml,
    experiment_yaml,
    failure,
    lasting_project,
    metadata,
    write_images,
)

VIT = {"backbone": "timm/test_vit", "weights": "models/vit.safetensors", "image_size_px": 48}
SHORT = {"epochs": 1, "warmup_epochs": 0, "batch_size": 8, "max_steps": 3, "augmentation": "flip"}
VARIANTS: dict[str, Any] = {
    "probe": {**VIT, "mode": "linear_probe", "features": "tokens", "probe": {"points": 3, "feature_choices": "all"}},
    "means": {**VIT, "mode": "nearest_mean", "features": "cls_mean"},
    "neighbours": {**VIT, "mode": "knn", "features": "cls_mean"},
    "trees": {**VIT, "mode": "lightgbm", "features": "cls_mean", "lightgbm": {"rounds": 5}},
    "parts": {**VIT, "mode": "finetune", "parts": {"stride_px": 12}, "train": SHORT},
    "tuned": {"backbone": "baseline_cnn", "mode": "scratch", "image_size_px": 32, "train": SHORT, "tuned_by": "rate"},
    "late": {"backbone": "baseline_cnn", "mode": "scratch", "train": SHORT, "tuned_by": "never"},
    "cnn": {"backbone": "baseline_cnn", "mode": "scratch", "image_size_px": 32, "train": SHORT},
}
RATE = {"variant": "cnn", "trials": 2, "space": {"train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("modes")
    images = write_images(folder / "images", per_class=12, side=24)
    with lasting_project(folder, images, mlflow_database) as made:
        torch.manual_seed(0)
        (made.folder / "models").mkdir()
        save_file(timm.create_model("test_vit").state_dict(), made.folder / "models/vit.safetensors")
        made.write("photos", dataset_yaml(images))
        made.write(
            "first",
            experiment_yaml(seeds=[0], folds=3, variants=VARIANTS, tune={"rate": RATE, "never": RATE}, retrain=None),
        )
        made.materialize(RECORDS)
        made.materialize('key:"photos/first/embeddings" or key:"photos/first/tuning_rate"')
        yield made


def _fitted(made: Project, variant: str) -> tuple[Path, dict[str, Any]]:
    trial = f"{variant}__s0"
    assets = [f"photos/first/{name}" for name in ("checkpoint", "predictions", "metrics")]
    result = made.materialize(" or ".join(f'key:"{asset}"' for asset in assets), partitions=(trial, trial))
    shown = {name: value for asset in assets for name, value in metadata(result, asset, trial).items()}
    return Path(shown["folder"]), shown


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in ("tuned", "late")])
def test_mode__leaves_a_checkpoint_that_loads_by_itself(trained: Project, variant: str) -> None:
    folder, shown = _fitted(trained, variant)
    classifier = load_classifier(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["mode"] == VARIANTS[variant]["mode"]
    assert "data:image/png" in shown["curve"]
    predictions = pl.read_parquet(folder / "predictions.parquet")
    assert set(predictions["part"]) == {"val", "test"}
    assert isinstance(classifier.backbone, PartAttention) == (variant == "parts")
    assert ("parts" in shown) == (variant == "parts")
    # No class has twenty train images, so that the few are all.
    found = json.loads((folder / "metrics.json").read_text())
    assert shown["test_accuracy_few"] == found["test_shots"]["few"] == found["test"]["balanced_accuracy"]
    assert (folder / "last.safetensors").exists() == (VARIANTS[variant]["mode"] in ("scratch", "finetune"))


def test_tuned__takes_the_best_options_of_its_search(trained: Project) -> None:
    tables = Tables(trained.data / "tables")
    search = tables.read(["photos", "first", "tuning_rate"])
    assert search.height == 2
    best = search.sort("value", descending=True).row(0, named=True)
    folder, _ = _fitted(trained, "tuned")
    config = json.loads((folder / "config.json").read_text())
    assert config["train"]["learning_rate"] == pytest.approx(best["train.learning_rate"])


def test_tuned__a_search_that_was_not_run_is_named(trained: Project) -> None:
    result = trained.materialize('key:"photos/first/checkpoint"', partitions=("late__s0", "late__s0"), raises=False)
    assert "photos/first/tuning_never" in failure(result)


def test_folds__test_stays_and_val_is_a_third_of_the_rest(trained: Project) -> None:
    folder, _ = _fitted(trained, "cnn")
    parts = pl.read_parquet(folder / "parts.parquet")
    whole = Tables(trained.data / "tables").read(["photos", "records"])
    test = set(whole.filter(pl.col("split") == "test")["image_id"])
    assert set(parts.filter(pl.col("split") == "test")["image_id"]) == test
    assert parts.filter(pl.col("split") == "val").height == (whole.height - len(test)) // 3


def test_weights__a_file_that_is_missing_is_named_with_the_cure(trained: Project) -> None:
    place = trained.folder / "models/vit.safetensors"
    place.rename(place.with_suffix(".away"))
    said = failure(trained.materialize('key:"photos/first/embeddings"', raises=False))
    place.with_suffix(".away").rename(place)
    assert f"weights: {place} is missing" in said


MEMBERS: dict[str, Any] = {
    "cnn": {"backbone": "baseline_cnn", "mode": "scratch", "train": SHORT},
    "other": {"backbone": "baseline_cnn", "mode": "scratch", "train": {**SHORT, "learning_rate": 0.01}},
    "soup": {"mode": "soup", "of": ["cnn", "other"]},
    "both": {"mode": "ensemble", "of": ["cnn", "other"], "combine": "weighted"},
}


def test_combinations__come_after_their_members_and_are_delivered(photos: Project) -> None:
    photos.write("first", experiment_yaml(seeds=[0, 1], variants=MEMBERS, image_size_px=32, baseline="cnn"))
    photos.materialize(RECORDS)
    photos.materialize("group:photos_first", partitions=("cnn__s0", "both__s0"))
    tables = Tables(photos.data / "tables")
    board = tables.read(["photos", "first", "leaderboard"])
    assert set(board["variant"]) == set(MEMBERS)
    for variant, mode in (("soup", "soup"), ("both", "ensemble")):
        row = tables.read(["photos", "first", "checkpoint"], f"{variant}__s0").row(0, named=True)
        config = json.loads(Path(row["folder_url"], "config.json").read_text())
        assert config["mode"] == mode
        members = [f"{member['trial']['variant']}__s{member['trial']['seed']}" for member in config["members"]]
        assert members == ["cnn__s0", "cnn__s1", "other__s0", "other__s1"]
        metrics = tables.read(["photos", "first", "metrics"], f"{variant}__s0").row(0, named=True)
        alone = [tables.read(["photos", "first", "metrics"], name)["val_top1"].item() for name in members]
        assert metrics["val_top1"] >= max(alone) - 1e-9
        loaded = load_classifier(Path(row["folder_url"]))
        features = pl.read_parquet(Path(row["folder_url"], "features.parquet"))
        width = 256 * len(loaded.names) if isinstance(loaded, Ensemble) else 256
        assert features.schema["vector"] == pl.Array(pl.Float32, width)
        assert Path(row["folder_url"], "views/embedding_map.png").is_file()
