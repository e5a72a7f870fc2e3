"""CUB-200-2011: its lists joined by id, and every way in which they may disagree."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform_assets.vision.datasets.scanning import hash_files, scan, source_version
from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.cub import CubSource
from platform_tests.vision.formats.damage import NOT_THERE, RESTORE, Edit, complaint, edit
from platform_tests.vision.pictures import png, write

CUB = CubSource(kind="cub", path="x")
LISTS = {
    "classes.txt": "1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n3 010.Red_winged_Blackbird\n",
    "images.txt": "1 001.Black_footed_Albatross/A_0046_18.jpg\n"
    "2 002.Laysan_Albatross/L_0002_1027.jpg\n"
    "3 001.Black_footed_Albatross/A_0009_34.jpg\n",
    "image_class_labels.txt": "1 1\n2 2\n3 1\n",
    "train_test_split.txt": "1 0\n2 1\n3 1\n",
    "bounding_boxes.txt": "1 60.0 27.0 325.0 304.0\n2 139.0 30.0 153.0 264.0\n3 14.0 112.0 388.0 186.0\n",
    "parts/parts.txt": "1 back\n2 left eye\n",
    "parts/part_locs.txt": "1 1 0.0 0.0 0\n1 2 312.5 182.0 1\n2 1 5.0 6.0 1\n2 2 7.0 8.0 1\n3 1 9.0 10.0 1\n3 2 0.0 0.0 0\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file, text in LISTS.items():
        write(tmp_path, file, text)
    for seed, line in enumerate(LISTS["images.txt"].splitlines()):
        write(tmp_path, f"images/{line.split()[1]}", png(seed))
    return tmp_path


def test_cub__rows_and_class_order(root: Path) -> None:
    found = CUB.read(root)
    assert found.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird")
    assert found.rows.columns == ["path", "label", "split", "group", "box", "parts"]
    first, second, third = found.rows.to_dicts()
    assert first["path"] == "images/001.Black_footed_Albatross/A_0009_34.jpg"
    assert (first["label"], first["split"]) == ("001.Black_footed_Albatross", "train")
    assert second["split"] == "test"
    assert second["box"] == [60.0, 27.0, 325.0, 304.0]
    assert second["parts"] == [
        {"name": "back", "x": None, "y": None, "visible": False},
        {"name": "left eye", "x": 312.5, "y": 182.0, "visible": True},
    ]
    assert third["label"] == "002.Laysan_Albatross"


def test_cub__order_of_lines_does_not_matter(root: Path) -> None:
    before = CUB.read(root)
    for file, text in LISTS.items():
        write(root, file, "\r\n".join(reversed(text.splitlines())))
    after = CUB.read(root)
    assert after.rows.equals(before.rows)
    assert after.classes == before.classes


def test_cub__scans_into_records_with_its_columns(root: Path) -> None:
    found = scan(CUB.read(root), root)
    assert found.records["box"].to_list()[1] == [60.0, 27.0, 325.0, 304.0]
    assert found.label_map.names[2] == "010.Red_winged_Blackbird"


def test_cub__image_that_is_not_on_disk_is_rejected_with_its_line(root: Path) -> None:
    edit(root, ("images/002.Laysan_Albatross/L_0002_1027.jpg", "", ""))
    found = CUB.read(root)
    assert len(found.rows) == 2
    detail = f"images.txt line 2: no such file below {root}"
    assert found.rejected.rows() == [("images/002.Laysan_Albatross/L_0002_1027.jpg", "missing_file", detail)]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("../../secret.jpg", "outside_root"), ("out.jpg", "outside_root"), ("/etc/hostname", "missing_file")],
)
def test_cub__images_outside_of_the_root_are_rejected(root: Path, path: str, reason: str) -> None:
    write(root.parent, "secret.jpg", png())
    (root / "images" / "out.jpg").symlink_to(root.parent / "secret.jpg")
    edit(root, ("images.txt", "002.Laysan_Albatross/L_0002_1027.jpg", path))
    found = CUB.read(root)
    assert found.rejected["reason"].to_list() == [reason]
    assert len(found.rows) == 2


@pytest.mark.parametrize("file", LISTS)
def test_cub__every_list_is_part_of_the_version(root: Path, file: str) -> None:
    before = source_version(hash_files(root, source_files(CUB, root)))
    write(root, file, f"\n{LISTS[file]}")
    assert source_version(hash_files(root, source_files(CUB, root))) != before


@pytest.mark.parametrize("file", LISTS)
def test_cub__missing_list(root: Path, file: str) -> None:
    edit(root, (file, "", ""))
    assert complaint(CUB, root) == f"{file}: {NOT_THERE}"


def test_cub__list_behind_a_link_out_is_refused(root: Path) -> None:
    outside = write(root.parent, "outside.txt", LISTS["classes.txt"])
    edit(root, ("classes.txt", "", ""))
    (root / "classes.txt").symlink_to(outside)
    assert complaint(CUB, root) == (
        f"classes.txt: links to {outside}, outside of the source; copy the file into it; "
        "unpack the whole set there, or correct `path` and `folder`"
    )


DAMAGE: dict[str, tuple[Edit, str]] = {
    "a label row too many": (
        ("image_class_labels.txt", "3 1\n", "3 1\n4 1\n"),
        "image_class_labels.txt line 4: image id 4 is not in images.txt; add the image there, or remove this entry",
    ),
    "no label": (
        ("image_class_labels.txt", "2 2\n", ""),
        "images.txt line 2: image id 2 has no entry in image_class_labels.txt; add one, or remove the image everywhere",
    ),
    "no part location": (
        ("parts/part_locs.txt", "3 1 9.0 10.0 1\n3 2 0.0 0.0 0\n", ""),
        "images.txt line 3: image id 3 has no entry in parts/part_locs.txt; add one, or remove the image everywhere",
    ),
    "image ids from 0": (
        ("images.txt", "1 001", "0 001"),
        f"images.txt line 1: image id is 0, but this set counts from 1; {RESTORE}",
    ),
    "class ids from 0": (
        ("classes.txt", "1 001", "0 001"),
        f"classes.txt line 1: class id is 0, but this set counts from 1; {RESTORE}",
    ),
    "part ids from 0": (
        ("parts/parts.txt", "1 back", "0 back"),
        f"parts/parts.txt line 1: part id is 0, but this set counts from 1; {RESTORE}",
    ),
    "label 0": (
        ("image_class_labels.txt", "3 1\n", "3 0\n"),
        f"image_class_labels.txt line 3: class id is 0, but this set counts from 1; {RESTORE}",
    ),
    "image id twice": (
        ("images.txt", "3 001", "1 001"),
        "images.txt line 3: id 1 stands in images.txt line 1 already; keep one of the two",
    ),
    "class id twice": (
        ("classes.txt", "3 010", "2 010"),
        "classes.txt line 3: id 2 stands in classes.txt line 2 already; keep one of the two",
    ),
    "class name twice": (
        ("classes.txt", "010.Red_winged_Blackbird", "002.Laysan_Albatross"),
        "classes.txt line 3: class '002.Laysan_Albatross' has id 3 here and id 2 in classes.txt line 2; give it one id",
    ),
    "gap in the class ids": (
        ("classes.txt", "3 010", "4 010"),
        f"classes.txt: 3 classes have the ids 1 to 3, but id 3 is missing; {RESTORE}",
    ),
    "label out of range": (
        ("image_class_labels.txt", "2 2\n", "2 9\n"),
        "image_class_labels.txt line 2: class id 9 is not in classes.txt; add the class there, or correct the id",
    ),
    "part out of range": (
        ("parts/part_locs.txt", "2 2 7.0", "2 3 7.0"),
        "parts/part_locs.txt line 4: part id 3 is not in parts/parts.txt; add the part there, or correct the id",
    ),
    "part twice": (
        ("parts/part_locs.txt", "2 2 7.0", "2 1 7.0"),
        "parts/part_locs.txt line 4: part 1 of image 2 stands above already; keep one of the two",
    ),
    "broken number": (
        ("bounding_boxes.txt", "139.0", "139,0"),
        f"bounding_boxes.txt line 2: x is '139,0', not a number; {RESTORE}",
    ),
    "not a number": (
        ("bounding_boxes.txt", "139.0", "nan"),
        f"bounding_boxes.txt line 2: x is 'nan', not a number; {RESTORE}",
    ),
    "infinite number": (
        ("bounding_boxes.txt", "139.0", "1e999"),
        f"bounding_boxes.txt line 2: x is inf, not a number; {RESTORE}",
    ),
    "no id": (
        ("images.txt", "2 002", "two 002"),
        f"images.txt line 2: image id is 'two', not a whole number; {RESTORE}",
    ),
    "box without height": (
        ("bounding_boxes.txt", "264.0", "0.0"),
        "bounding_boxes.txt line 2: the box is 153 x 0 pixels, both must be positive; correct the box",
    ),
    "split that is neither": (
        ("train_test_split.txt", "2 1", "2 2"),
        f"train_test_split.txt line 2: is training image is 2, not 0 or 1; {RESTORE}",
    ),
    "column missing": (
        ("bounding_boxes.txt", " 264.0", ""),
        f"bounding_boxes.txt line 2: 4 columns instead of 5 (image id, x, y, width, height); {RESTORE}",
    ),
    "column too many": (
        ("image_class_labels.txt", "2 2\n", "2 2 2\n"),
        f"image_class_labels.txt line 2: 3 columns instead of 2 (image id, class id); {RESTORE}",
    ),
    "not UTF-8": (
        ("classes.txt", "Laysan_Alba", "Laysan_\xe9"),
        "classes.txt line 2: byte 0xe9 is not UTF-8; save the file as UTF-8",
    ),
    "empty list": (("classes.txt", LISTS["classes.txt"], "\n"), f"classes.txt: the file is empty; {RESTORE}"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_cub__damage(root: Path, change: Edit, message: str) -> None:
    edit(root, change)
    assert complaint(CUB, root) == message
