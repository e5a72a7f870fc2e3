"""Experiments on annotated boxes: what is outside of them is not seen, and a dataset without boxes is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from platform_assets.stores.tables import Tables
from platform_assets.vision.images.cropping import MissingBox
from platform_assets.vision.networks.onnx_classifier import OnnxClassifier
from platform_tests.components.projects import (
    COLOURS,
    RECORDS,
    Project,
    dataset_yaml,
    experiment_yaml,
    failed_checks,
    failure,
    lasting_project,
    metadata,
)

PATCH, SIDE = 12, 48
CNN = {
    "backbone": "baseline_cnn",
    "mode": "scratch",
    "train": {"epochs": 8, "warmup_epochs": 0, "augmentation": "none"},
}
PROBE = {"backbone": "tf_efficientnet_lite0", "mode": "linear_probe", "image_size_px": 32, "probe": {"points": 3}}
TRIAL = ("checkpoint", "predictions", "metrics")
DELIVERED = " or ".join(f"key:photos/first/{name}" for name in ("leaderboard", "champion", "exports"))
IMAGES = 60
CORNERS = [(x, y) for x in (2, 18, 34) for y in (2, 18, 34)]


def write_boxed_images(folder: Path, *, images: int = IMAGES) -> Path:
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
    images = write_boxed_images(folder / "images")
    with lasting_project(folder, images, mlflow_database) as made:
        source = {"kind": "coco", "path": str(images), "annotations": "boxes.json"}
        made.write("photos", dataset_yaml(images, source=source))
        one = {"seeds": [0], "retrain": None, "crop_to_box": {"margin": 0.1}}
        made.write("first", experiment_yaml(**one, variants={"cnn": CNN}))
        made.write("probes", experiment_yaml(**one, name="probes", baseline="probe", variants={"probe": PROBE}))
        made.materialize(RECORDS)
        yield made


def top1(project: Project, experiment: str, trial: str) -> float:
    """Of one trial, fitted and evaluated."""
    embeddings = [f"key:photos/{experiment}/embeddings"] if trial.startswith("probe") else []
    made = " or ".join([*embeddings, *(f"key:photos/{experiment}/{name}" for name in TRIAL)])
    project.materialize(made, partitions=(trial, trial))
    row = Tables(project.data / "tables").read(["photos", experiment, "metrics"], trial).row(0, named=True)
    return float(row["test_top1"])


def test_crop_to_box__label_in_the_box_is_learned_by_probe_and_network(boxed: Project) -> None:
    """All three colours are in every picture, so that only a model that sees the box can tell which is meant."""
    assert top1(boxed, "first", "cnn__s0") > 0.9
    assert top1(boxed, "probes", "probe__s0") > 0.9


def test_crop_to_box__champion_and_its_export_ask_for_the_box(boxed: Project) -> None:
    """The exported file of the model in service cuts out the box that it is given, and refuses a picture without one."""
    result = boxed.materialize(DELIVERED)
    assert not failed_checks(result)
    assert "export_matches_its_checkpoint" in {each.check_name for each in result.get_asset_check_evaluations()}
    assert metadata(result, "photos/first/exports")["preprocessing"]["box_margin"] == 0.1
    served = OnnxClassifier(Path(metadata(result, "photos/first/exports")["onnx"]))
    images = boxed.folder.parent / "images"
    box = json.loads((images / "boxes.json").read_text())["annotations"][0]["bbox"]
    picture = (images / "000.png").read_bytes()
    (prediction,) = served.predict([picture], [tuple(box)])
    assert prediction.label == sorted(COLOURS)[0]
    with pytest.raises(MissingBox, match="none is given; give x, y, width, height"):
        served.predict([picture])


def test_crop_to_box__another_box_is_embedded_anew(boxed: Project) -> None:
    """One moved box, same bytes: one vector more, the others from the cache."""
    file = boxed.folder.parent / "images/boxes.json"
    document = json.loads(file.read_text())
    document["annotations"][5]["bbox"][0] -= 1
    file.write_text(json.dumps(document))
    boxed.materialize(f"{RECORDS} or key:photos/probes/embeddings")
    row = Tables(boxed.data / "tables").read(["photos", "probes", "embeddings"]).row(0, named=True)
    assert (row["images"], row["embedded_now"]) == (IMAGES, 1)


def test_crop_to_box__a_dataset_without_boxes_is_refused_with_the_cure(photos: Project) -> None:
    photos.write("first", experiment_yaml(crop_to_box={"margin": 0.1}))
    photos.materialize(RECORDS)
    result = photos.materialize("key:photos/first/embeddings", raises=False)
    assert "experiment photos/first: crop_to_box needs a box of every image" in failure(result)
    assert "remove crop_to_box, or read the dataset by a source kind that gives boxes" in failure(result)
