"""YOLO detection folders: data.yaml, label files, and every way in which they may not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.yolo import YoloSource
from platform_tests.vision.formats.damage import complaint
from platform_tests.vision.formats.exchange import turned_jpeg
from platform_tests.vision.pictures import png, write

YOLO = YoloSource(kind="yolo", path="x")
DATA = "path: .\ntrain: images/train\nval: [images/val]\nnames: {1: bus, 0: zebra}\nnc: 2\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "data.yaml", DATA)
    for seed, image in enumerate(("train/a", "train/b", "val/c")):
        write(tmp_path, f"images/{image}.png", png(seed))
        write(tmp_path, f"labels/{image}.txt", "0 0.5 0.5 0.5 0.5\n")
    return tmp_path


def test_yolo__box_in_pixels_and_classes_by_number(root: Path) -> None:
    write(root, "labels/train/a.txt", "\n1 0.25 0.5 0.1 1.0 \n")
    found = YOLO.read(root)
    assert found.classes == ("zebra", "bus")
    assert found.rejected.is_empty()
    rows = found.rows.to_dicts()
    assert [(row["path"], row["label"], row["split"]) for row in rows] == [
        ("images/train/a.png", "bus", "train"),
        ("images/train/b.png", "zebra", "train"),
        ("images/val/c.png", "zebra", "val"),
    ]
    assert rows[0]["box"] == pytest.approx([4, 0, 2, 14])


def test_yolo__polygon_gives_the_box_around_it(root: Path) -> None:
    write(root, "labels/train/a.txt", "1 0.1 0.5 0.5 0 0.3 1\n")
    assert YOLO.read(root).rows["box"].to_list()[0] == pytest.approx([2, 0, 8, 14], abs=1e-5)


def test_yolo__box_of_a_turned_picture_is_said_in_stored_pixels(root: Path) -> None:
    # Turned by 90 degrees, the left upper quarter of the picture lies left below in the file.
    write(root, "images/train/a.png", turned_jpeg(0, 6))
    write(root, "labels/train/a.txt", "0 0.25 0.25 0.5 0.5\n")
    assert YOLO.read(root).rows["box"].to_list()[0] == pytest.approx([0, 7, 10, 7])


def test_yolo__list_file_and_path(root: Path) -> None:
    write(root, "lists/train.txt", "../images/train/a.png\n./d.png\n\n")
    write(root, "lists/d.png", png(9))
    write(root, "lists/d.txt", "1 0.5 0.5 1 1\n")
    write(root, "data.yaml", "path: lists\ntrain: train.txt\nnames: [zebra, bus]\n")
    found = YOLO.read(root)
    assert found.rows.select("path", "label").rows() == [("lists/d.png", "bus")]
    assert found.rejected.select("path", "reason").rows() == [("lists/../images/train/a.png", "outside_root")]
    assert source_files(YOLO, root) == ["data.yaml", "lists/d.png", "lists/d.txt", "lists/train.txt"]


def test_yolo__places_as_roboflow_writes_them(tmp_path: Path) -> None:
    write(tmp_path, "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['stop sign']\n")
    for seed, part in enumerate(("train", "valid")):
        write(tmp_path, f"{part}/images/a.png", png(seed))
        write(tmp_path, f"{part}/labels/a.txt", "0 0.5 0.5 0.5 0.5\n")
    found = YOLO.read(tmp_path)
    assert found.rows.select("path", "split").rows() == [("train/images/a.png", "train"), ("valid/images/a.png", "val")]
    assert found.rejected.is_empty()


def test_source_files__label_files_are_part_of_the_version(root: Path) -> None:
    (root / "labels/val/c.txt").unlink()
    assert source_files(YOLO, root) == [
        *("data.yaml", "images/train/a.png", "images/train/b.png", "images/val/c.png"),
        *("labels/train/a.txt", "labels/train/b.txt"),
    ]


BAD_LABELS = {
    "": ("missing_label", "it has no annotation"),
    "x 0.5 0.5 0.5 0.5": ("malformed_row", "line 1: 'x 0.5 0.5 0.5 0.5' is not a class number and numbers"),
    "0 0.5 0.5 0.5 y": ("malformed_row", "line 1: '0 0.5 0.5 0.5 y' is not a class number and numbers"),
    "2 0.5 0.5 0.5 0.5": ("unknown_label", "line 1: class 2 is none of names"),
    "0": ("malformed_row", "line 1: 0 numbers are neither a box (4) nor a polygon (6, 8, ...)"),
    "0 0.5 0.5 0.5 0.5 0.9": ("malformed_row", "line 1: 5 numbers are neither a box (4) nor a polygon (6, 8, ...)"),
    "0 10 7 5 5": ("malformed_row", "line 1: [10.0, 7.0, 5.0, 5.0] are not all fractions of the picture, 0 to 1"),
    "0 nan 0.5 0.5 0.5": ("malformed_row", "line 1: [nan, 0.5, 0.5, 0.5] are not all fractions of the picture, 0 to 1"),
    "0 0.5 0.5 0 0.5": ("malformed_row", "line 1: box [0.5, 0.25, 0.0, 0.5] has no area"),
    "0 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1": (
        "conflicting_labels",
        "2 annotations: ['bus', 'zebra']; an image has one label here, or set several: largest",
    ),
}


@pytest.mark.parametrize("text", BAD_LABELS, ids=[repr(text)[:24] for text in BAD_LABELS])
def test_yolo__bad_label_file_rejects_its_image(text: str, root: Path) -> None:
    write(root, "labels/train/a.txt", text)
    found = YOLO.read(root)
    reason, detail = BAD_LABELS[text]
    assert found.rejected.rows() == [("images/train/a.png", reason, f"labels/train/a.txt: {detail}")]
    assert found.rows.height == 2


def test_yolo__missing_label_file_rejects_its_image(root: Path) -> None:
    (root / "labels/train/a.txt").unlink()
    detail = f"labels/train/a.txt: no such file below {root}"
    assert YOLO.read(root).rejected.rows() == [("images/train/a.png", "missing_label", detail)]


def test_yolo__picture_without_a_size_is_rejected(root: Path) -> None:
    write(root, "images/train/a.png", "no picture")
    ((path, reason, detail),) = YOLO.read(root).rejected.rows()
    assert (path, reason) == ("images/train/a.png", "corrupt")
    assert detail.startswith("labels/train/a.txt: its size cannot be read: cannot identify image file")


BAD_YAML = {
    DATA.replace("path: .", "path: /data/coco"): (
        "data.yaml: train: '/data/coco' leaves the source; name a place inside of it; paths start at `path`, `path` at "
        "the file's folder"
    ),
    DATA.replace("images/train", "../../train/images"): (
        "data.yaml: train: '../train/images' leaves the source; name a place inside of it; paths start at `path`, "
        "`path` at the file's folder"
    ),
    DATA.replace("images/train", "nope"): "data.yaml: train: no folder nope below {root}; correct the path",
    "names: [a, b]\n": "data.yaml: none of train, val and test is given; name the folder of images of each",
    "train: images\n": "data.yaml: names: Field required; correct the file",
    "train: images\nnames: []\n": (
        "data.yaml: names: Value should have at least 1 item after validation, not 0; correct the file"
    ),
    "train: images\nnames: [yes, no]\n": "data.yaml: names.0: Input should be a valid string; correct the file",
    "train: images\nnames: [cat, ' cat']\n": (
        "data.yaml: names: ['cat'] stand more than once; give every class its own name"
    ),
    "train: images\nnames: [cat\nval: x\n": "data.yaml line 3: not YAML: expected ',' or ']', but got ':'; correct the file",
    "a: !!python/object/apply:os.system [true]\n": (
        "data.yaml line 1: not YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.system'; correct the file"
    ),
    "day: 2026-13-45\n": "data.yaml: not YAML: month must be in 1..12; correct the file",
    "- a\n": "data.yaml: it has no keys with values, as it should; correct the file",
    "[" * 1200: "data.yaml: not YAML: maximum recursion depth exceeded; correct the file",
}


@pytest.mark.parametrize("text", BAD_YAML, ids=range(len(BAD_YAML)))
def test_yolo__bad_yaml_is_an_error(text: str, root: Path) -> None:
    write(root, "data.yaml", text)
    assert complaint(YOLO, root).split(" while calling")[0].split("exceeded in")[0] == BAD_YAML[text]


def test_yolo__linked_folder_of_images_is_an_error(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (root / "linked").symlink_to(tmp_path_factory.mktemp("outside"))
    write(root, "data.yaml", DATA.replace("images/train", "linked"))
    assert complaint(YOLO, root) == "data.yaml: train: linked links out of the source; copy the folder into it"
