"""Stanford Dogs: two lists, one annotation an image, boxes of ImageNet; and XML that must not be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from platform_assets.vision.datasets.scanning import hash_files, source_version
from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.stanford_dogs import StanfordDogsSource
from platform_tests.vision.formats.damage import NOT_THERE, RESTORE, Edit, complaint, edit, refusal_of
from platform_tests.vision.pictures import png, write

DOGS = StanfordDogsSource(kind="stanford_dogs", path="x")
TRAIN = [("n02085620-Chihuahua/n02085620_5927", 1.0), ("n02085936-Maltese_dog/n02085936_37", 2.0)]
TEST = [("n02116738-African_hunting_dog/n02116738_9", 3.0), ("n02085620-Chihuahua/n02085620_2650", 1.0)]
FIRST = "Annotation/n02085620-Chihuahua/n02085620_5927"
OBJECT = """\t<object>
\t\t<name>Chihuahua</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>{}</xmin>
\t\t\t<ymin>{}</ymin>
\t\t\t<xmax>{}</xmax>
\t\t\t<ymax>{}</ymax>
\t\t</bndbox>
\t</object>
"""


def annotation(*corners: tuple[int, int, int, int]) -> str:
    objects = "".join(OBJECT.format(*box) for box in corners)
    return f"<annotation>\n\t<folder>02085620</folder>\n\t<filename>%s</filename>\n{objects}</annotation>"


def column(values: list[Any]) -> np.ndarray[Any, Any]:
    found = np.empty((len(values), 1), dtype=object)
    found[:, 0] = values
    return found


def store(root: Path, file: str, listed: list[tuple[str, Any]], **other: Any) -> None:
    columns = {
        "file_list": column([f"{name}.jpg" for name, _ in listed]),
        "annotation_list": column([name for name, _ in listed]),
        "labels": np.array([[label] for _, label in listed]),
    }
    savemat(root / file, columns | other)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store(tmp_path, "train_list.mat", TRAIN)
    store(tmp_path, "test_list.mat", TEST)
    for seed, (name, _) in enumerate(TRAIN + TEST):
        write(tmp_path, f"Images/{name}.jpg", png(seed))
        write(tmp_path, f"Annotation/{name}", annotation((0, 10, 30 + seed, 40)))
    return tmp_path


def test_dogs__rows_and_class_order(root: Path) -> None:
    found = DOGS.read(root)
    assert found.classes == ("n02085620-Chihuahua", "n02085936-Maltese_dog", "n02116738-African_hunting_dog")
    assert [(r["path"], r["label"], r["split"], r["box"]) for r in found.rows.to_dicts()] == [
        ("Images/n02085620-Chihuahua/n02085620_2650.jpg", "n02085620-Chihuahua", "test", [0.0, 10.0, 33.0, 30.0]),
        ("Images/n02085620-Chihuahua/n02085620_5927.jpg", "n02085620-Chihuahua", "train", [0.0, 10.0, 30.0, 30.0]),
        ("Images/n02085936-Maltese_dog/n02085936_37.jpg", "n02085936-Maltese_dog", "train", [0.0, 10.0, 31.0, 30.0]),
        (
            "Images/n02116738-African_hunting_dog/n02116738_9.jpg",
            "n02116738-African_hunting_dog",
            "test",
            [0.0, 10.0, 32.0, 30.0],
        ),
    ]


def test_dogs__order_is_of_the_labels_not_of_the_folders(root: Path) -> None:
    store(root, "train_list.mat", [(TRAIN[0][0], 3.0), (TRAIN[1][0], 2.0)])
    store(root, "test_list.mat", [(TEST[0][0], 1.0), (TEST[1][0], 3.0)])
    assert DOGS.read(root).classes == (
        *("n02116738-African_hunting_dog", "n02085936-Maltese_dog", "n02085620-Chihuahua"),
    )


def test_dogs__largest_dog_gives_the_box(root: Path) -> None:
    write(root, FIRST, annotation((0, 0, 5, 5), (10, 20, 110, 70), (30, 20, 130, 70)))
    assert DOGS.read(root).rows["box"].to_list()[1] == [10.0, 20.0, 100.0, 50.0]


def test_dogs__annotations_are_part_of_the_version(root: Path) -> None:
    before = source_version(hash_files(root, source_files(DOGS, root)))
    write(root, FIRST, annotation((1, 10, 30, 40)))
    assert source_version(hash_files(root, source_files(DOGS, root))) != before
    assert len(source_files(DOGS, root)) == 2 + 4 + 4


def test_dogs__image_that_is_not_on_disk_is_rejected_with_its_record(root: Path) -> None:
    (root / "Images/n02085936-Maltese_dog/n02085936_37.jpg").unlink()
    detail = f"train_list.mat record 2: no such file below {root}"
    path = "Images/n02085936-Maltese_dog/n02085936_37.jpg"
    assert DOGS.read(root).rejected.rows() == [(path, "missing_file", detail)]


LISTS: dict[str, tuple[list[tuple[str, Any]], dict[str, Any], str]] = {
    "labels from 0": (
        [(TRAIN[0][0], 0.0)],
        {},
        f"train_list.mat record 1: labels is 0, but this set counts from 1; {RESTORE}",
    ),
    "one label for two folders": (
        [TRAIN[0], (TRAIN[1][0], 1.0)],
        {},
        "train_list.mat record 2: class id 1 is 'n02085936-Maltese_dog' here and 'n02085620-Chihuahua' in "
        "train_list.mat record 1; give it one name",
    ),
    "two labels for one folder": (
        [TRAIN[0], ("n02085620-Chihuahua/n02085620_7", 2.0)],
        {},
        "train_list.mat record 2: class 'n02085620-Chihuahua' has id 2 here and id 1 in train_list.mat record 1; "
        "give it one id",
    ),
    "gap in the labels": (
        [TRAIN[0], (TRAIN[1][0], 20.0)],
        {},
        f"labels of train_list.mat and test_list.mat: 3 classes have the ids 1 to 3, but id 2 is missing; {RESTORE}",
    ),
    "image in both parts": (
        [TRAIN[0], TRAIN[1], TEST[0]],
        {},
        "test_list.mat record 1: id n02116738-African_hunting_dog/n02116738_9.jpg stands in train_list.mat record 3 "
        "already; keep one of the two",
    ),
    "a label too many": (
        TRAIN,
        {"labels": np.ones((3, 1))},
        "train_list.mat: its lists have different lengths (2 in file_list, 2 in annotation_list, 3 in labels); "
        f"{RESTORE}",
    ),
    "label that is no number": (
        TRAIN,
        {"labels": np.array([[np.nan], [1.0]])},
        f"train_list.mat record 1: labels is nan, not a whole number; {RESTORE}",
    ),
    "image in no folder": (
        TRAIN,
        {"file_list": column(["a.jpg", "b.jpg"])},
        f"train_list.mat record 1: file 'a.jpg' lies in no class folder; {RESTORE}",
    ),
    "annotation out of the root": (
        TRAIN,
        {"annotation_list": column(["../../a", "b"])},
        "Annotation/../../a: only relative paths without `..` are read; "
        "unpack the whole set there, or correct `path` and `folder`",
    ),
    "no annotation": ([("n02085620-Chihuahua/gone", 1.0)], {}, f"Annotation/n02085620-Chihuahua/gone: {NOT_THERE}"),
}


@pytest.mark.parametrize(("listed", "other", "message"), LISTS.values(), ids=LISTS)
def test_dogs__damaged_list(root: Path, listed: list[tuple[str, Any]], other: dict[str, Any], message: str) -> None:
    store(root, "train_list.mat", listed, **other)
    assert complaint(DOGS, root) == message


XML: dict[str, tuple[Edit, str]] = {
    "not closed": (
        (FIRST, "</bndbox>", ""),
        f"{FIRST} line 15: not XML (mismatched tag: line 15, column 3); {RESTORE}",
    ),
    "no number": ((FIRST, "<xmin>0", "<xmin>zero"), f"{FIRST} object 1: xmin is 'zero', not a number; {RESTORE}"),
    "no corner": ((FIRST, "<ymax>40</ymax>", ""), f"{FIRST} object 1: ymax is missing, not a number; {RESTORE}"),
    "no size": (
        (FIRST, "<xmin>0", "<xmin>30"),
        f"{FIRST} object 1: the box is 0 x 30 pixels, both must be positive; correct the box",
    ),
    "no object": (
        (FIRST, annotation((0, 10, 30, 40)), "<annotation/>"),
        f"{FIRST}: holds no object; {RESTORE}",
    ),
    "not UTF-8": (
        (FIRST, "Chihuahua", "Chihuahu\xe9"),
        f"{FIRST} line 5: not XML (not well-formed (invalid token): line 5, column 16); {RESTORE}",
    ),
    "unknown encoding": (
        (FIRST, "<annotation>", "<?xml version='1.0' encoding='martian'?><annotation>"),
        f"{FIRST} line 1: not XML (unknown encoding: martian); {RESTORE}",
    ),
    "entity": (
        (FIRST, "<annotation>", '<!DOCTYPE a [<!ENTITY e "0">]><annotation>'),
        f"{FIRST}: declares a document type, and entities are not read; remove the declaration",
    ),
    "entity of another file": (
        (FIRST, "<annotation>", '<!DOCTYPE a SYSTEM "file:///etc/hostname"><annotation>'),
        f"{FIRST}: declares a document type, and entities are not read; remove the declaration",
    ),
    "entity without declaration": (
        (FIRST, "<xmin>0", "<xmin>&zero;"),
        f"{FIRST} line 10: not XML (undefined entity: line 10, column 9); {RESTORE}",
    ),
}


@pytest.mark.parametrize(("change", "message"), XML.values(), ids=XML)
def test_dogs__damaged_annotation(root: Path, change: Edit, message: str) -> None:
    edit(root, change)
    assert complaint(DOGS, root) == message


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), byte=st.integers(0, 255), cut=st.integers(0, 500))
def test_dogs__any_damage_to_an_annotation_is_read_or_refused(root: Path, place: int, byte: int, cut: int) -> None:
    data = bytearray(annotation((0, 10, 30, 40)).encode())
    data[place % len(data)] = byte
    (root / FIRST).write_bytes(data[:cut])
    message = refusal_of(lambda: DOGS.read(root))
    assert message is None or message.startswith(FIRST)
