"""COCO json: categories, images and annotations joined by id, and every way in which they may not fit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.coco import CocoSource
from platform_tests.vision.formats.damage import complaint
from platform_tests.vision.pictures import write

Json = dict[str, Any]
CONTENT: Json = {
    "info": {"year": 2026},
    "categories": [
        {"id": 7, "name": "zebra", "supercategory": "animal"},
        {"id": 2, "name": " bus ", "supercategory": "vehicle"},
        {"id": 90, "name": "unseen"},
    ],
    "images": [
        {"id": 1, "file_name": "a.png", "width": 20, "height": 14},
        {"id": 2, "file_name": "b.png", "width": 20, "height": 14},
        {"id": 3, "file_name": "c.png", "width": 20, "height": 14},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3.5, 4], "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2},
        {"id": 3, "image_id": 2, "category_id": 7, "bbox": [0, 0, 20, 14], "iscrowd": 1},
        {"id": 4, "image_id": 3, "category_id": 7, "bbox": [0, 0, 2, 2]},
        {"id": 5, "image_id": 3, "category_id": 2, "bbox": [0, 0, 3, 3]},
    ],
}


def coco(**more: Any) -> CocoSource:
    return CocoSource.model_validate({"kind": "coco", "path": "x", "annotations": "i.json", "images": "images", **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abc":
        write(tmp_path, f"images/{name}.png", "bytes are not looked at here")
    write(tmp_path, "i.json", json.dumps(CONTENT))
    return tmp_path


def test_coco__label_box_and_supercategory_of_the_annotation(root: Path) -> None:
    found = coco().read(root)
    assert found.classes == ("bus", "zebra", "unseen")
    assert found.rows.select("path", "label", "split", "box", "coarse_label").rows() == [
        ("images/a.png", "zebra", None, [1.0, 2.0, 3.5, 4.0], "animal"),
        ("images/b.png", "bus", None, None, "vehicle"),
    ]
    assert found.rejected.rows() == [
        (
            "images/c.png",
            "conflicting_labels",
            "i.json image 3: 2 annotations: ['bus', 'zebra']; an image has one label here, or set several: largest",
        )
    ]


def test_coco__largest_box_is_taken_whatever_the_order(root: Path) -> None:
    reverse = {**CONTENT, "annotations": CONTENT["annotations"][::-1]}
    for content in (CONTENT, reverse):
        write(root, "i.json", json.dumps(content))
        last = coco(several="largest").read(root).rows.to_dicts()[-1]
        assert (last["path"], last["label"], last["box"]) == ("images/c.png", "bus", [0, 0, 3, 3])


def test_coco__one_file_and_one_folder_a_part(root: Path) -> None:
    write(root, "val/d.png", "x")
    image = {"id": "d", "file_name": "d.png"}
    content = {**CONTENT, "images": [image], "annotations": [{"image_id": "d", "category_id": 7}]}
    write(root, "v.json", "\ufeff" + json.dumps(content))
    spec = coco(annotations={"train": "i.json", "val": "v.json"}, images={"train": "images", "val": "val"})
    assert spec.read(root).rows.select("path", "split").rows() == [
        ("images/a.png", "train"),
        ("images/b.png", "train"),
        ("val/d.png", "val"),
    ]
    assert source_files(spec, root) == ["i.json", "images/a.png", "images/b.png", "images/c.png", "v.json", "val/d.png"]


def test_coco__parts_must_have_the_same_categories(root: Path) -> None:
    write(root, "v.json", json.dumps({**CONTENT, "categories": CONTENT["categories"][:2]}))
    spec = coco(annotations={"train": "i.json", "val": "v.json"})
    assert complaint(spec, root) == "v.json: its categories are not those of i.json; use the same in all"


Damage = Callable[[Json], object]
BAD_IMAGES: dict[str, tuple[Damage, str, str]] = {
    "no annotation": (lambda c: c["annotations"].pop(0), "missing_label", "it has no annotation"),
    "crowd alone": (lambda c: c["annotations"][0].update(iscrowd=1), "missing_label", "it has no annotation"),
    "no category": (
        lambda c: c["annotations"][0].update(category_id=3),
        "unknown_label",
        "annotations.0: category_id 3 is none of categories",
    ),
    "three numbers": (
        lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
        "malformed_row",
        "annotations.0: box [1.0, 2.0, 3.0] is not four finite numbers x, y, width, height",
    ),
    "no area": (
        lambda c: c["annotations"][0].update(bbox=[1, 2, 0, 3]),
        "malformed_row",
        "annotations.0: box [1.0, 2.0, 0.0, 3.0] has no area",
    ),
    "escape": (
        lambda c: c["images"][0].update(file_name="../../secret.png"),
        "outside_root",
        "only relative paths without `..` are read",
    ),
    "absolute": (
        lambda c: c["images"][0].update(file_name="/etc/hostname"),
        "outside_root",
        "only relative paths without `..` are read",
    ),
    "gone": (lambda c: c["images"][0].update(file_name="z.png"), "missing_file", "no such file below {root}"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_coco__bad_image_is_rejected(case: str, root: Path) -> None:
    damage, reason, detail = BAD_IMAGES[case]
    content = copy.deepcopy(CONTENT)
    damage(content)
    write(root, "i.json", json.dumps(content))
    found = coco(several="largest").read(root)
    assert [row[1:] for row in found.rejected.rows()] == [
        (reason, f"i.json image 1: {detail}".replace("{root}", str(root)))
    ]
    assert found.rows.height == 2


BAD_FILES: dict[str, tuple[Damage, str]] = {
    "images missing": (lambda c: c.pop("images"), "i.json: images: Field required; correct the file"),
    "name missing": (
        lambda c: c["images"][1].pop("file_name"),
        "i.json: images.1.file_name: Field required; correct the file",
    ),
    "name a number": (
        lambda c: c["images"][1].update(file_name=3),
        "i.json: images.1.file_name: Input should be a valid string; correct the file",
    ),
    "id a fraction": (
        lambda c: c["images"][1].update(id=1.5),
        "i.json: images.1.id: Input should be a valid integer; correct the file",
    ),
    "box a text": (
        lambda c: c["annotations"][0].update(bbox="1 2 3 4"),
        "i.json: annotations.0.bbox: Input should be a valid array; correct the file",
    ),
    "no categories": (
        lambda c: c.update(categories=[]),
        "i.json: categories: List should have at least 1 item after validation, not 0; correct the file",
    ),
    "blank class": (
        lambda c: c["categories"][0].update(name="  "),
        "i.json: categories.0.name: a class name is empty; correct the file",
    ),
    "category twice": (
        lambda c: c["categories"][0].update(id=2),
        "i.json: categories: ids [2] stand more than once; give every entry its own",
    ),
    "name twice": (
        lambda c: c["categories"][0].update(name="bus"),
        "i.json: categories: names ['bus'] have more than one id; give every id its own name",
    ),
    "image twice": (
        lambda c: c["images"][0].update(id=2),
        "i.json: images: ids [2] stand more than once; give every entry its own",
    ),
    "strange image": (
        lambda c: c["annotations"][1].update(image_id=99),
        "i.json: annotations.1: image_id 99 is none of images; list the image, or remove the annotation",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_coco__bad_file_is_an_error(case: str, root: Path) -> None:
    damage, message = BAD_FILES[case]
    content = copy.deepcopy(CONTENT)
    damage(content)
    write(root, "i.json", json.dumps(content))
    assert complaint(coco(), root) == message


BAD_BYTES = {
    b"{": "i.json: Invalid JSON: EOF while parsing an object at line 1 column 1; correct the file",
    b"": "i.json: Invalid JSON: EOF while parsing a value at line 1 column 0; correct the file",
    b"[]": "i.json: Input should be an object; correct the file",
    b"\xff\xfe{\0}\0": "i.json: Invalid JSON: expected value at line 1 column 1; correct the file",
    b"[" * 9999: "i.json: Invalid JSON: recursion limit exceeded at line 1 column 202; correct the file",
    b'{\n"images": [{"id": 1, "file_name": "\\ud800"}]}': (
        "i.json: Invalid JSON: unexpected end of hex escape at line 2 column 42; correct the file"
    ),
}


@pytest.mark.parametrize("data", BAD_BYTES, ids=range(len(BAD_BYTES)))
def test_coco__no_json_is_an_error(data: bytes, root: Path) -> None:
    write(root, "i.json", data)
    assert complaint(coco(), root) == BAD_BYTES[data]


def test_coco__annotation_file_behind_a_link_out_is_refused(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = write(tmp_path_factory.mktemp("outside"), "o.json", json.dumps(CONTENT))
    (root / "link.json").symlink_to(outside)
    said = complaint(coco(annotations="link.json"), root)
    assert said.startswith("link.json of {root}: links to ")
    assert complaint(coco(annotations="gone.json"), root) == (
        "gone.json of {root}: no such file below {root}; correct its name in the source"
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"annotations": {}}, "no part is named; name at least one"),
        ({"annotations": "../i.json"}, "leaves the source"),
        ({"images": "/images"}, "leaves the source"),
        ({"images": {"train": "images"}}, "images has other parts than annotations"),
        ({"several": "first"}, "Input should be 'reject' or 'largest'"),
    ],
)
def test_coco__bad_yaml_is_refused(more: Json, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        coco(**more)
