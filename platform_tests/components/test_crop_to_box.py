"""Experiments on annotated boxes: what is outside of them is not seen, and a dataset without boxes is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from platform_assets.stores.tables import Tables
from platform_tests.components.projects import COLOURS, Project, dataset_yaml, experiment_yaml, failure, project

PATCH, SIDE = 12, 48
CNN = {
    "backbone": "baseline_cnn",
    "mode": "scratch",
    "train": {"epochs": 8, "warmup_epochs": 0, "augmentation": "none"},
}
PROBE = {"backbone": "tf_efficientnet_lite0", "mode": "linear_probe", "image_size_px": 32, "probe": {"points": 3}}
RECORDS = " or ".join(f"key:photos/{name}" for name in ("source", "records", "rejected", "label_map"))
TRIALS = ("embeddings", "checkpoint", "predictions", "metrics")
CORNERS = [(x, y) for x in (2, 18, 34) for y in (2, 18, 34)]


def write_boxed_images(folder: Path, *, images: int = 96) -> Path:
    """Grey pictures with one patch of every colour; the label is the colour of the one that the COCO box is around."""
    random, names = np.random.default_rng(0), sorted(COLOURS)
    document: dict[str, Any] = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "images": [],
        "annotations": [],
    }
    folder.mkdir(parents=True)
    for number in range(images):
        pixels = random.normal(128, 20, (SIDE, SIDE, 3))
        corners = random.permutation(CORNERS)[: len(names)].tolist()
        for name, (x, y) in zip(names, corners, strict=True):
            pixels[y : y + PATCH, x : x + PATCH] = random.normal(COLOURS[name], 25, (PATCH, PATCH, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
        label = number % len(names)
        shape = {"id": number, "file_name": f"{number:03d}.png", "width": SIDE, "height": SIDE}
        document["images"].append(shape)
        box = [*corners[label], PATCH, PATCH]
        document["annotations"].append({"id": number, "image_id": number, "category_id": label + 1, "bbox": box})
    (folder / "boxes.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    """A project on the pictures above, with the records made."""
    folder = tmp_path_factory.mktemp("boxed")
    (folder / "project/data/mlflow").mkdir(parents=True)
    shutil.copy(mlflow_database, folder / "project/data/mlflow/mlflow.db")
    images = write_boxed_images(folder / "images")
    with pytest.MonkeyPatch.context() as patch, project(folder / "project", images, patch) as made:
        source = {"kind": "coco", "path": str(images), "annotations": "boxes.json"}
        made.write("photos", dataset_yaml(images, source=source))
        cropped = {"seeds": [0], "variants": {"cnn": CNN, "probe": PROBE}, "retrain": None}
        made.write("first", experiment_yaml(**cropped, crop_to_box={"margin": 0.1}))
        whole = {"name": "whole", "baseline": "probe", "variants": {"probe": PROBE}, "seeds": [0], "retrain": None}
        made.write("whole", experiment_yaml(**whole))
        made.materialize(RECORDS)
        yield made


def _trials(experiment: str) -> str:
    return " or ".join(f"key:photos/{experiment}/{name}" for name in TRIALS)


def top1(project: Project, experiment: str, trial: str) -> float:
    row = Tables(project.data / "tables").read(["photos", experiment, "metrics"], trial).row(0, named=True)
    return float(row["test_top1"])


def test_crop_to_box__label_in_the_box_is_learned_by_probe_and_network(boxed: Project) -> None:
    """All three colours are in every picture, so that only a model that sees the box can tell which is meant."""
    boxed.materialize(_trials("first"), partitions=("cnn__s0", "probe__s0"))
    boxed.materialize(_trials("whole"), partitions=("probe__s0", "probe__s0"))
    assert top1(boxed, "first", "probe__s0") > 0.9
    assert top1(boxed, "first", "cnn__s0") > 0.9
    assert top1(boxed, "whole", "probe__s0") < 0.7


def test_crop_to_box__another_box_is_embedded_anew(boxed: Project) -> None:
    """One moved box, same bytes: one vector more, the others from the cache."""
    file = boxed.folder.parent / "images/boxes.json"
    document = json.loads(file.read_text())
    document["annotations"][5]["bbox"][0] -= 1
    file.write_text(json.dumps(document))
    boxed.materialize(f"{RECORDS} or key:photos/first/embeddings")
    row = Tables(boxed.data / "tables").read(["photos", "first", "embeddings"]).row(0, named=True)
    assert (row["images"], row["embedded_now"]) == (96, 1)


def test_crop_to_box__a_dataset_without_boxes_is_refused_with_the_cure(photos: Project) -> None:
    photos.write("first", experiment_yaml(crop_to_box={"margin": 0.1}))
    photos.materialize(RECORDS)
    result = photos.materialize("key:photos/first/embeddings", raises=False)
    assert "experiment photos/first: crop_to_box needs a box of every image" in failure(result)
    assert "remove crop_to_box, or read the dataset by a source kind that gives boxes" in failure(result)
