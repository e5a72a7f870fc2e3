"""What a folder is taken for, and what is said of one that is none or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from platform_assets.vision.datasets.format_detection import UnknownFormat, detect
from platform_assets.vision.datasets.format_kinds import NestedFormat
from platform_tests.vision.pictures import write


def coco(*names: str, **more: object) -> str:
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    return json.dumps({"images": images, "annotations": [], "categories": [], **more})


YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n"
CUB = {
    "images.txt": "1 a.jpg\n",
    "image_class_labels.txt": "1 1\n",
    "classes.txt": "1 001.A\n",
    "images/001.A/a.jpg": "",
}
COCO_2017 = {
    "annotations/instances_train2017.json": coco("1.jpg"),
    "annotations/person_keypoints_train2017.json": coco("1.jpg"),
    "annotations/captions_train2017.json": '{"images": [], "annotations": []}',
    "annotations/instances_val2017.json": coco("1.jpg"),
    "train2017/1.jpg": "",
    "val2017/1.jpg": "",
}
FOUND: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "folder": ({"cat/a.jpg": "", "dog/deep/b.PNG": "", "README.md": ""}, {"kind": "folder"}),
    "folder with parts": ({"train/cat/a.jpg": "", "Valid/cat/a.jpg": "", "test/a.jpg": ""}, {"kind": "folder"}),
    "folder with a class named train": ({"train/a.jpg": "", "bus/a.jpg": ""}, {"kind": "folder"}),
    "folder with litter": (
        {"cat/a.jpg": "", "dog/a.jpg": "", "__MACOSX/cat/._a.jpg": "", ".git/x": ""},
        {"kind": "folder"},
    ),
    "cub": ({**CUB, "attributes/x.txt": ""}, {"kind": "cub"}),
    "nabirds": ({**CUB, "hierarchy.txt": "1 0\n"}, {"kind": "nabirds"}),
    "yolo": (
        {"data.yaml": YAML, "images/train/a.jpg": "", "labels/train/a.txt": ""},
        {"kind": "yolo", "file": "data.yaml"},
    ),
    "yolo, folders of parts": (
        {"pets.yml": "names: [cat]\ntrain: train/images\n", "train/images/a.jpg": "", "train/labels/a.txt": ""},
        {"kind": "yolo", "file": "pets.yml"},
    ),
    "dice": (
        {
            "annotations_classification.json": '{"classes": [], "images": [], "annotations": []}',
            "images/train/a.jpg": "",
        },
        {"kind": "dice"},
    ),
    "dice, coco variant": (
        {"annotations_classification.json": coco("a.jpg"), "images/a.jpg": ""},
        {"kind": "coco", "annotations": "annotations_classification.json", "images": "images"},
    ),
    "coco, one file": ({"labels.json": coco("x/a.jpg"), "x/a.jpg": ""}, {"kind": "coco", "annotations": "labels.json"}),
    "coco 2017": (
        COCO_2017,
        {
            "kind": "coco",
            "annotations": {
                "train": "annotations/instances_train2017.json",
                "val": "annotations/instances_val2017.json",
            },
            "images": {"train": "train2017", "val": "val2017"},
        },
    ),
    "coco beside the images of each part": (
        {
            **{f"{part}/_annotations.coco.json": coco(f"{part}.jpg") for part in ("train", "valid")},
            **{"train/train.jpg": "", "valid/valid.jpg": ""},
        },
        {
            "kind": "coco",
            "annotations": {"train": "train/_annotations.coco.json", "val": "valid/_annotations.coco.json"},
            "images": {"train": "train", "val": "valid"},
        },
    ),
    "coco, all images in one folder": (
        {"train.json": coco("a.jpg"), "test.json": coco("b.jpg"), "images/a.jpg": "", "images/b.jpg": ""},
        {"kind": "coco", "annotations": {"train": "train.json", "test": "test.json"}, "images": "images"},
    ),
}


def fill(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        write(root, path, text)
    return root


def parsed(spec: dict[str, Any]) -> Any:
    return TypeAdapter[Any](NestedFormat).validate_python(spec)


@pytest.mark.parametrize(("files", "spec"), FOUND.values(), ids=list(FOUND))
def test_detect__by_markers(tmp_path: Path, files: dict[str, str], spec: dict[str, Any]) -> None:
    assert detect(fill(tmp_path, files)) == spec
    assert parsed(spec).kind == spec["kind"]


@pytest.mark.parametrize(("files", "spec"), FOUND.values(), ids=list(FOUND))
def test_detect__one_folder_around_it(tmp_path: Path, files: dict[str, str], spec: dict[str, Any]) -> None:
    fill(tmp_path, {"README.md": "", "attributes.txt": "", "__MACOSX/x/._a.jpg": ""})
    fill(tmp_path / "set v1", files)
    found = detect(tmp_path)
    assert found == {**spec, "folder": "set v1"}
    assert parsed(found).folder == "set v1"
    assert detect(tmp_path / "set v1") == spec


REFUSED = {
    "empty": (
        {},
        r"no known format\. Looked for cub: images\.txt.*folder: at least two class.*Found nothing\. Say what",
    ),
    "one class": ({"cat/a.jpg": ""}, r"Found a\.jpg\. Say what it is by `format: \{kind: \.\.\.\}`"),
    "two folders deep": ({"a/b/cat/x.jpg": "", "a/b/dog/x.jpg": ""}, r"Found b/\."),
    "images and masks are no classes": ({"images/a.png": "", "masks/a.png": ""}, r"Found images/, masks/"),
    "loose pictures": ({f"{number:02}.jpg": "" for number in range(12)}, r"09\.jpg and 2 more\."),
    "two formats": ({"cat/a.jpg": "", "dog/a.jpg": "", **CUB}, None),
    "coco and yolo": (
        {"data.yaml": YAML, "labels.json": coco("a.jpg"), "a.jpg": ""},
        r"several formats: yolo \(a \.yaml .*\), coco \(a \.json .*\); say which by `format",
    ),
    "two yaml files": ({"a.yaml": YAML, "b.yaml": YAML}, r"several formats: yolo .*yolo"),
    "coco without its images": (
        {"labels.json": coco("gone.jpg")},
        r"labels\.json lists 'gone\.jpg', .*; give `images`",
    ),
    "coco parts unnamed": (
        {"a.json": coco("1.jpg"), "b.json": coco("1.jpg"), "1.jpg": ""},
        r"which part each of \['a\.json', 'b\.json'\] is cannot be told",
    ),
    "json and yaml of other things": (
        {
            "config.yaml": "names: x\n",
            "package.json": '{"images": 1, "annotations": 2}',
            "empty.json": "",
            "d.json": "",
        },
        r"Found config\.yaml, d\.json, empty\.json, package\.json",
    ),
}
REFUSED["two formats"] = (
    {"data.yaml": YAML, "cat/a.jpg": "", "dog/a.jpg": ""},
    r"several formats: yolo .*, folder \(at least two class folders",
)


@pytest.mark.parametrize(("files", "said"), REFUSED.values(), ids=list(REFUSED))
def test_detect__what_is_none_or_several(tmp_path: Path, files: dict[str, str], said: str) -> None:
    with pytest.raises(UnknownFormat, match=said):
        detect(fill(tmp_path, files))


def test_detect__a_link_is_no_marker(tmp_path: Path) -> None:
    write(tmp_path, "outside.yaml", YAML)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "data.yaml").symlink_to(tmp_path / "outside.yaml")
    with pytest.raises(UnknownFormat, match="Found nothing"):
        detect(tmp_path / "root")
