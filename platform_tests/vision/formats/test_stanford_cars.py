"""Stanford Cars: both layouts, MATLAB's counting, and damaged MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.stanford_cars import StanfordCarsSource
from platform_tests.vision.formats.damage import NOT_THERE, RESTORE, complaint
from platform_tests.vision.pictures import png, write

CARS = StanfordCarsSource(kind="stanford_cars", path="x")
CLASSES = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012")
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
TRAIN = [(39, 116, 569, 375, 3, "00001.jpg"), (1, 1, 20, 14, 1, "00002.jpg")]
TEST = [(30, 52, 246, 147, 2, "00001.jpg")]
DEVKIT_FILES = ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat")


def structs(records: list[tuple[Any, ...]], fields: tuple[str, ...] = FIELDS) -> np.ndarray[Any, Any]:
    """A MATLAB struct array (1, n), numbers as small as they fit, as in the published files."""
    found = np.zeros((1, len(records)), dtype=[(field, object) for field in fields])
    for place, record in enumerate(records):
        small = [np.array(v, np.min_scalar_type(v)) if isinstance(v, int) else v for v in record]
        found[0, place] = tuple(small)
    return found


def cells(names: tuple[str, ...]) -> np.ndarray[Any, Any]:
    return np.array([list(names)], dtype=object)


def mat(root: Path, file: str, **variables: Any) -> None:
    write(root, file, "")
    savemat(root / file, variables, do_compression=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The devkit's layout."""
    mat(tmp_path, DEVKIT_FILES[0], class_names=cells(CLASSES))
    mat(tmp_path, DEVKIT_FILES[1], annotations=structs(TRAIN))
    mat(tmp_path, DEVKIT_FILES[2], annotations=structs(TEST))
    for seed, path in enumerate(("cars_train/00001.jpg", "cars_train/00002.jpg", "cars_test/00001.jpg")):
        write(tmp_path, path, png(seed))
    return tmp_path


def test_cars__devkit(root: Path) -> None:
    found = CARS.read(root)
    assert found.classes == CLASSES
    assert [(r["path"], r["label"], r["split"], r["box"]) for r in found.rows.to_dicts()] == [
        ("cars_test/00001.jpg", CLASSES[1], "test", [29.0, 51.0, 217.0, 96.0]),
        ("cars_train/00001.jpg", CLASSES[2], "train", [38.0, 115.0, 531.0, 260.0]),
        ("cars_train/00002.jpg", CLASSES[0], "train", [0.0, 0.0, 20.0, 14.0]),
    ]
    assert set(source_files(CARS, root)) == {*DEVKIT_FILES, *found.rows["path"]}


def test_cars__test_labels_may_lie_in_the_devkit(root: Path) -> None:
    (root / DEVKIT_FILES[2]).rename(root / "devkit/cars_test_annos_withlabels.mat")
    assert len(CARS.read(root).rows) == 3
    assert "devkit/cars_test_annos_withlabels.mat" in CARS.own_files(root)


def single_list(root: Path) -> Path:
    fields = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    records = [("car_ims/000001.jpg", 112, 7, 853, 717, 1, 0), ("car_ims/000002.jpg", 48, 24, 441, 202, 3, 1)]
    mat(root, "cars_annos.mat", annotations=structs(records, fields), class_names=cells(CLASSES))
    for seed, record in enumerate(records):
        write(root, record[0], png(seed))
    return root


def test_cars__single_list(tmp_path: Path) -> None:
    found = CARS.read(single_list(tmp_path))
    assert found.classes == CLASSES
    assert [(r["path"], r["label"], r["split"], r["box"]) for r in found.rows.to_dicts()] == [
        ("car_ims/000001.jpg", CLASSES[0], "train", [111.0, 6.0, 742.0, 711.0]),
        ("car_ims/000002.jpg", CLASSES[2], "test", [47.0, 23.0, 394.0, 179.0]),
    ]
    assert CARS.own_files(tmp_path) == ("cars_annos.mat",)


def test_cars__devkit_goes_before_the_single_list(root: Path) -> None:
    assert "cars_train/00001.jpg" in CARS.read(single_list(root)).rows["path"]


def test_cars__image_that_is_not_on_disk_is_rejected_with_its_record(root: Path) -> None:
    (root / "cars_train/00002.jpg").unlink()
    detail = f"devkit/cars_train_annos.mat record 2: no such file below {root}"
    assert CARS.read(root).rejected.rows() == [("cars_train/00002.jpg", "missing_file", detail)]


@pytest.mark.parametrize("file", [*DEVKIT_FILES[:2], "devkit/cars_test_annos_withlabels.mat"])
def test_cars__missing_file(root: Path, file: str) -> None:
    (root / (file if "test" not in file else DEVKIT_FILES[2])).unlink()
    assert complaint(CARS, root) == f"{file}: {NOT_THERE}"


TRAIN_FILE = DEVKIT_FILES[1]
RECORDS: dict[str, tuple[tuple[Any, ...], str]] = {
    "class from 0": ((1, 1, 5, 5, 0, "00002.jpg"), f"class is 0, but this set counts from 1; {RESTORE}"),
    "class out of range": (
        (1, 1, 5, 5, 4, "00002.jpg"),
        "class id 4 is not in devkit/cars_meta.mat; add the class there, or correct the id",
    ),
    "broken class": ((1, 1, 5, 5, 1.5, "00002.jpg"), f"class is 1.5, not a whole number; {RESTORE}"),
    "class is no number": ((1, 1, 5, 5, "one", "00002.jpg"), f"class is 'one', not a whole number; {RESTORE}"),
    "file twice": (
        (1, 1, 5, 5, 1, "00001.jpg"),
        f"id cars_train/00001.jpg stands in {TRAIN_FILE} record 1 already; keep one of the two",
    ),
    "corners the wrong way round": (
        (5, 1, 1, 5, 1, "00002.jpg"),
        "the box is -3 x 5 pixels, both must be positive; correct the box",
    ),
    "no number": ((np.nan, 1, 5, 5, 1, "00002.jpg"), f"xmin is nan, not a number; {RESTORE}"),
    "several numbers": ((np.array([1, 2]), 1, 5, 5, 1, "00002.jpg"), f"xmin is [1, 2], not a number; {RESTORE}"),
    "no file name": ((1, 1, 5, 5, 1, 7), f"fname is 7, not a text; {RESTORE}"),
}


@pytest.mark.parametrize(("record", "message"), RECORDS.values(), ids=RECORDS)
def test_cars__damaged_record(root: Path, record: tuple[Any, ...], message: str) -> None:
    mat(root, TRAIN_FILE, annotations=structs([TRAIN[0], record]))
    assert complaint(CARS, root) == f"{TRAIN_FILE} record 2: {message}"


def test_cars__box_of_one_pixel_is_a_box(root: Path) -> None:
    mat(root, TRAIN_FILE, annotations=structs([(5, 6, 5, 6, 1, "00001.jpg")]))
    assert CARS.read(root).rows["box"].to_list()[1] == [4.0, 5.0, 1.0, 1.0]


def test_cars__class_name_twice(root: Path) -> None:
    mat(root, DEVKIT_FILES[0], class_names=cells((*CLASSES, CLASSES[0])))
    assert complaint(CARS, root) == (
        f"devkit/cars_meta.mat class 4: class '{CLASSES[0]}' has id 4 here and id 1 in devkit/cars_meta.mat class 1; "
        "give it one id"
    )


def test_cars__test_list_without_classes(root: Path) -> None:
    unlabelled = structs([record[:4] + record[5:] for record in TEST], FIELDS[:4] + FIELDS[5:])
    mat(root, DEVKIT_FILES[2], annotations=unlabelled)
    assert complaint(CARS, root) == f"{DEVKIT_FILES[2]} record 1: has no field 'class'; {RESTORE}"


def test_cars__variable_is_missing(root: Path) -> None:
    mat(root, TRAIN_FILE, annos=structs(TRAIN))
    assert complaint(CARS, root) == f"{TRAIN_FILE}: has no variable 'annotations'; {RESTORE}"


@pytest.mark.parametrize(
    "data", [b"", b"MATLAB 5.0 MAT-file", b"<html>404</html>" * 40, b"\x89HDF\r\n\x1a\n" + bytes(600)]
)
def test_cars__file_that_is_not_a_mat_file(root: Path, data: bytes) -> None:
    (root / TRAIN_FILE).write_bytes(data)
    message = complaint(CARS, root)
    assert message.startswith(f"{TRAIN_FILE}: not a MATLAB file that can be read (")
    assert message.endswith(f"); {RESTORE}")
