"""DICE folders: classes, images, annotations and statistics, and every way in which they may not agree."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.dice import DiceSource, write_dice
from platform_tests.vision.formats.damage import complaint
from platform_tests.vision.formats.exchange import HEIGHT, MADE, WIDTH, records_of, sha256
from platform_tests.vision.pictures import write

Json = dict[str, Any]
FILE = "annotations_classification.json"
DICE = DiceSource(kind="dice", path="x")


def image(number: int, file_name: str, split: str | None, *annotations: Json) -> Json:
    said = {"id": number, "file_name": file_name, "width": 900, "height": 900, "depth": 3, "split": split}
    return said | {"annotations": list(annotations), "metadata": {"labeled_by": "somebody"}}


def labelled(number: int, class_id: int, name: str, **more: Any) -> Json:
    return {"id": number, "image_id": 1, "class_id": class_id, "class_name": name, "attributes": {}, **more}


CONTENT: Json = {
    "format_version": "1.0",
    "dataset_id": "8f97389d",
    "task_type": "classification",
    "classes": [
        {"id": 1, "name": "scratch", "color": "#d92653", "supercategory": "defect"},
        {"id": 0, "name": "__background__"},
        {"id": 2, "name": "dent"},
    ],
    "images": [
        image(1, "bottle/000.png", "train", labelled(11, 1, "scratch", bbox=[1, 2, 3, 4], bbox_format="xywh")),
        image(2, "001.png", "val", labelled(12, 2, "dent")),
        image(3, "images/002.png", None, labelled(13, 0, "__background__")),
    ],
    "statistics": {
        "total_images": 3,
        "total_annotations": 3,
        "avg_annotations_per_image": 1.0,
        "class_distribution": {"scratch": 1, "dent": 1, "__background__": 1, "unused": 0},
        "split_distribution": {"train": 1, "val": 1},
    },
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("bottle/000.png", "val/001.png", "002.png"):
        write(tmp_path, f"images/{name}", "bytes are not looked at here")
    write(tmp_path, FILE, json.dumps(CONTENT))
    return tmp_path


def test_dice__labels_boxes_and_parts(root: Path) -> None:
    found = DICE.read(root)
    assert found.classes == ("scratch", "dent")
    assert found.rows.select("path", "label", "split", "box", "coarse_label").rows() == [
        ("images/bottle/000.png", "scratch", "train", [1, 2, 3, 4], "defect"),
        ("images/val/001.png", "dent", "val", None, None),
    ]
    detail = f"{FILE} image 3: it has no annotation"
    assert found.rejected.rows() == [("images/002.png", "missing_label", detail)]
    assert source_files(DICE, root) == [FILE, "images/002.png", "images/bottle/000.png", "images/val/001.png"]


def test_dice__single_annotation_of_early_files(root: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["images"][0]["annotation"] = content["images"][0].pop("annotations")[0]
    write(root, FILE, json.dumps(content))
    assert DICE.read(root).rows["label"].to_list() == ["scratch", "dent"]


def test_dice__what_is_written_is_as_published(tmp_path: Path) -> None:
    rows = [(MADE[0], "b", "train", (1.0, 2.0, 3.0, 4.5)), (MADE[4], "a", "test", None)]
    records = records_of(tmp_path / "root", rows)
    write_dice(records, LabelMap(names=("b", "c", "a")), tmp_path / "root", tmp_path / "out")
    written = json.loads((tmp_path / "out" / FILE).read_text())
    assert written["format_version"] == "1.0"
    assert written["classes"] == [{"id": 0, "name": "b"}, {"id": 1, "name": "c"}, {"id": 2, "name": "a"}]
    first = written["images"][0]
    assert first["file_name"] == f"train/{sha256(MADE[0].data)}.png"
    assert (tmp_path / "out" / "images" / first["file_name"]).read_bytes() == MADE[0].data
    assert first["annotations"][0]["bbox"] == [1, 2, 3, 4.5]
    assert first["annotations"][0]["area"] == 13.5
    assert (written["images"][1]["width"], written["images"][1]["height"]) == (WIDTH, HEIGHT)
    assert written["statistics"] == {
        **{"total_images": 2, "total_annotations": 2, "labeled_images": 2, "unlabeled_images": 0},
        **{"avg_annotations_per_image": 1.0, "class_distribution": {"a": 1, "b": 1}},
        "split_distribution": {"test": 1, "train": 1},
    }


Damage = Callable[[Json], object]
BAD_FILES: dict[str, tuple[Damage, str]] = {
    "version": (lambda c: c.update(format_version="2.0"), "format_version: Input should be '1.0'; correct the file"),
    "coco variant": (lambda c: c.update(categories=c.pop("classes")), "classes: Field required; correct the file"),
    "class twice": (
        lambda c: c["classes"][0].update(id=2),
        "classes: ids [2] stand more than once; give every entry its own",
    ),
    "name twice": (
        lambda c: c["classes"][0].update(name="dent"),
        "classes: names ['dent'] stand more than once; give every entry its own",
    ),
    "image twice": (
        lambda c: c["images"][0].update(id=2),
        "images: ids [2] stand more than once; give every entry its own",
    ),
    "negative id": (
        lambda c: c["classes"][0].update(id=-1),
        "classes.0.id: Input should be greater than or equal to 0; correct the file",
    ),
    "box format": (
        lambda c: c["images"][0]["annotations"][0].update(bbox_format="xyxy"),
        "images.0.annotations.0.bbox_format: Input should be 'xywh'; correct the file",
    ),
    "total": (
        lambda c: c["statistics"].update(total_images=63),
        "statistics.total_images is 63, the content gives 3; write the file again",
    ),
    "mean": (
        lambda c: c["statistics"].update(avg_annotations_per_image=1.35),
        "statistics.avg_annotations_per_image is 1.35, the content gives 1.0; write the file again",
    ),
    "classes": (
        lambda c: c["statistics"].update(class_distribution={"dent": 3}),
        "statistics.class_distribution is {'dent': 3}, the content gives {'__background__': 1, 'dent': 1, "
        "'scratch': 1}; write the file again",
    ),
    "parts": (
        lambda c: c["statistics"].update(split_distribution={"train": 3}),
        "statistics.split_distribution is {'train': 3}, the content gives {'train': 1, 'val': 1}; write the file again",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_dice__bad_file_is_an_error(case: str, root: Path) -> None:
    damage, message = BAD_FILES[case]
    content = copy.deepcopy(CONTENT)
    damage(content)
    write(root, FILE, json.dumps(content))
    assert complaint(DICE, root) == f"{FILE}: {message}"


BAD_IMAGES: dict[str, tuple[Damage, str, str]] = {
    "class": (lambda i: i["annotations"][0].update(class_id=9), "unknown_label", "class_id 9 is none of classes"),
    "name": (
        lambda i: i["annotations"][0].update(class_name="dent"),
        "conflicting_labels",
        "class_id 1 is 'scratch', class_name 'dent'",
    ),
    "part": (lambda i: i.update(split="dev"), "malformed_row", "'dev' is no part; write train, val or test"),
    "box": (
        lambda i: i["annotations"][0].update(bbox=[1, 2, -3, 4]),
        "malformed_row",
        "box [1.0, 2.0, -3.0, 4.0] has no area",
    ),
    "gone": (lambda i: i.update(file_name="gone.png"), "missing_file", "no such file below {root}"),
    "outside": (
        lambda i: i.update(file_name="../x.png"),
        "outside_root",
        "only relative paths without `..` are read",
    ),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_dice__bad_image_is_rejected(case: str, root: Path) -> None:
    damage, reason, detail = BAD_IMAGES[case]
    content = {**copy.deepcopy(CONTENT), "statistics": None}
    damage(content["images"][0])
    write(root, FILE, json.dumps(content))
    rejected = DICE.read(root).rejected.select("reason", "detail").rows()
    assert (reason, f"{FILE} image 1: {detail}".replace("{root}", str(root))) in rejected
