"""FiftyOne dataset folders: samples, their labels and tags, and what Kestrel itself writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.fiftyone import FiftyOneSource
from platform_assets.vision.views.fiftyone_folder import write_fiftyone
from platform_tests.vision.formats.damage import complaint
from platform_tests.vision.pictures import png, write

Json = dict[str, Any]


def fiftyone(**more: Any) -> FiftyOneSource:
    return FiftyOneSource.model_validate({"kind": "fiftyone", "path": "x", **more})


def sample(name: str, label: Json | None, *tags: str) -> Json:
    return {"_id": {"$oid": "0" * 24}, "filepath": f"data/{name}.png", "tags": list(tags), "ground_truth": label}


def classification(label: str) -> Json:
    return {"_cls": "Classification", "label": label, "tags": []}


def detection(label: str, *box: float) -> Json:
    return {"_cls": "Detection", "label": label, "bounding_box": list(box), "attributes": {}}


SAMPLES = [
    sample("a", classification("cat"), "train", "good"),
    sample("b", {"_cls": "Detections", "detections": [detection("dog", 0.5, 0, 0.25, 1)]}, "validation"),
    sample("c", {"_cls": "Classifications", "classifications": [classification("dog")]}),
]


def make(root: Path, samples: list[Json], **metadata: Any) -> Path:
    for seed, name in enumerate("abc"):
        write(root, f"data/{name}.png", png(seed))
    write(root, "metadata.json", json.dumps({"version": "1.22.1", "default_classes": [], "classes": {}, **metadata}))
    write(root, "samples.json", json.dumps({"samples": samples}))
    return root


def test_fiftyone__labels_boxes_and_tags(tmp_path: Path) -> None:
    root = make(tmp_path, SAMPLES, default_classes=["dog", "cat"])
    found = fiftyone().read(root)
    assert found.classes == ("dog", "cat")
    assert found.rows.select("path", "label", "split", "box").rows() == [
        ("data/a.png", "cat", "train", None),
        ("data/b.png", "dog", "val", [10, 0, 5, 14]),
        ("data/c.png", "dog", None, None),
    ]
    assert source_files(fiftyone(), root) == ["data/a.png", "data/b.png", "data/c.png", "metadata.json", "samples.json"]


def test_fiftyone__classes_of_the_field_come_first(tmp_path: Path) -> None:
    make(tmp_path, SAMPLES, default_classes=["x"], classes={"ground_truth": ["cat", "dog"]})
    assert fiftyone().read(tmp_path).classes == ("cat", "dog")
    make(tmp_path, SAMPLES)
    assert fiftyone().read(tmp_path).classes is None


def test_fiftyone__what_kestrel_writes_is_read(tmp_path: Path) -> None:
    make(tmp_path, [])
    rows = {
        "part": ["test", "val"],
        "path": ["data/a.png", "data/b.png"],
        "image_id": ["1", "2"],
        "truth": ["dog", "cat"],
        "prediction": ["dog", "dog"],
        "confidence": [0.9, 0.6],
        "logits": [[1.0, 2.0], [0.0, 1.0]],
        "correct": [True, False],
    }
    write_fiftyone(tmp_path / "fo", pl.DataFrame(rows), root=tmp_path, label_map=LabelMap(names=("cat", "dog")))
    read = {
        field: fiftyone(dataset="fo", label_field=field).read(tmp_path) for field in ("ground_truth", "predictions")
    }
    assert read["ground_truth"].classes == ("cat", "dog")
    assert read["ground_truth"].rows.select("path", "label", "split").rows() == [
        ("data/a.png", "dog", "test"),
        ("data/b.png", "cat", "val"),
    ]
    assert read["predictions"].rows["label"].to_list() == ["dog", "dog"]


BAD_SAMPLES: dict[str, tuple[Json, str, str]] = {
    "no label": (sample("a", None), "missing_label", "it has no annotation"),
    "not a class": (
        sample("a", classification("bird")),
        "unknown_label",
        "'bird' is none of the classes of metadata.json",
    ),
    "polyline": (
        sample("a", {"_cls": "Polyline", "label": "cat"}),
        "malformed_row",
        "ground_truth._cls: Input should be 'Classification' or 'Detection'",
    ),
    "three numbers": (
        sample("a", detection("cat", 0, 0, 1)),
        "malformed_row",
        "box [0.0, 0.0, 1.0] is not four finite numbers x, y, width, height",
    ),
    "two": (
        sample("a", {"_cls": "Detections", "detections": [detection("cat", 0, 0, 1, 1), detection("dog", 0, 0, 1, 1)]}),
        "conflicting_labels",
        "2 annotations: ['cat', 'dog']; an image has one label here, or set several: largest",
    ),
    "two parts": (
        sample("a", classification("cat"), "train", "test"),
        "malformed_row",
        "tags ['train', 'test'] name several parts; keep one",
    ),
    "absolute": (
        {**sample("a", classification("cat")), "filepath": "/data/a.png"},
        "outside_root",
        "only relative paths without `..` are read",
    ),
}


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_fiftyone__bad_sample_is_rejected(case: str, tmp_path: Path) -> None:
    bad, reason, detail = BAD_SAMPLES[case]
    make(tmp_path, [bad, SAMPLES[1]], default_classes=["dog", "cat"])
    found = fiftyone().read(tmp_path)
    assert found.rejected.rows() == [(bad["filepath"], reason, f"samples.json sample 0: {detail}")]
    assert found.rows.height == 1


def test_fiftyone__bad_folders_are_errors(tmp_path: Path) -> None:
    make(tmp_path, SAMPLES)
    assert complaint(fiftyone(label_field="truth"), tmp_path) == (
        "samples.json: no sample has a field 'truth'; correct label_field"
    )
    make(tmp_path, SAMPLES, default_classes=["a", "a"])
    assert complaint(fiftyone(), tmp_path) == (
        "metadata.json: class names ['a'] stand more than once; every class has one index"
    )
    make(tmp_path, [{**SAMPLES[0], "filepath": ""}])
    assert complaint(fiftyone(), tmp_path) == (
        "samples.json: samples.0.filepath: String should have at least 1 character; correct the file"
    )
    (tmp_path / "samples.json").unlink()
    assert complaint(fiftyone(), tmp_path) == (
        "samples.json of {root}: no such file below {root}; correct its name in the source"
    )
