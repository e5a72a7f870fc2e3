"""NABirds: ids with dashes, a hierarchy above the classes, and only those classes that have images."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.nabirds import NabirdsSource
from platform_tests.vision.formats.damage import NOT_THERE, RESTORE, Edit, complaint, edit
from platform_tests.vision.pictures import png, write

NABIRDS = NabirdsSource(kind="nabirds", path="x")
A, B, C = (
    "0000139e-21dc-4d0c-bfe1-4cae3c85c829",
    "0000d9fc-4e02-4c06-a0af-a55cfb16b12b",
    "00019306-9d83-4334-b255-a447742edce3",
)
LISTS = {
    "classes.txt": "0 Birds\n1 Ducks, Geese, and Swans\n22 Geese\n295 Snow Goose\n"
    "817 Oak Titmouse\n1000 Kestrel (Female, immature)\n",
    "hierarchy.txt": "1 0\n22 1\n295 22\n817 0\n1000 0\n",
    "images.txt": f"{A} 0817/{A.replace('-', '')}.jpg\n{B} 0295/{B.replace('-', '')}.jpg\n{C} 0295/{C.replace('-', '')}.jpg\n",
    "image_class_labels.txt": f"{A} 817\n{B} 295\n{C} 295\n",
    "train_test_split.txt": f"{A} 0\n{B} 1\n{C} 0\n",
    "bounding_boxes.txt": f"{A} 83 59 128 228\n{B} 0 88 163 298\n{C} 174 367 219 378\n",
    "sizes.txt": f"{A} 296 341\n{B} 640 480\n{C} 600 820\n",
    "parts/parts.txt": "0 bill\n1 crown\n",
    "parts/part_locs.txt": f"{A} 0 1 2 1\n{A} 1 -1 -1 0\n{B} 0 1 2 1\n{B} 1 3 4 1\n{C} 0 1 2 1\n{C} 1 3 4 1\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file, text in LISTS.items():
        write(tmp_path, file, text)
    for seed, line in enumerate(LISTS["images.txt"].splitlines()):
        write(tmp_path, f"images/{line.split()[1]}", png(seed))
    return tmp_path


def test_nabirds__leaves_with_images_in_order_of_their_ids(root: Path) -> None:
    found = NABIRDS.read(root)
    assert found.classes == ("Snow Goose", "Oak Titmouse")
    rows = {Path(row["path"]).stem: row for row in found.rows.to_dicts()}
    titmouse, goose = rows[A.replace("-", "")], rows[B.replace("-", "")]
    assert (titmouse["label"], titmouse["split"], titmouse["hierarchy"]) == ("Oak Titmouse", "test", ["Birds"])
    assert (goose["label"], goose["split"]) == ("Snow Goose", "train")
    assert goose["hierarchy"] == ["Birds", "Ducks, Geese, and Swans", "Geese"]
    assert goose["box"] == [0.0, 88.0, 163.0, 298.0]
    assert titmouse["parts"] == [
        {"name": "bill", "x": 1.0, "y": 2.0, "visible": True},
        {"name": "crown", "x": None, "y": None, "visible": False},
    ]


def test_nabirds__order_is_by_number_not_by_text(root: Path) -> None:
    edit(root, ("image_class_labels.txt", f"{C} 295", f"{C} 1000"))
    assert NABIRDS.read(root).classes == ("Snow Goose", "Oak Titmouse", "Kestrel (Female, immature)")


def test_nabirds__order_of_lines_does_not_matter(root: Path) -> None:
    before = NABIRDS.read(root)
    for file, text in LISTS.items():
        write(root, file, "\n".join(reversed(text.splitlines())))
    after = NABIRDS.read(root)
    assert after.rows.equals(before.rows)
    assert after.classes == before.classes


def test_nabirds__own_files_are_the_lists_that_are_read(root: Path) -> None:
    lists = {file for file in source_files(NABIRDS, root) if not file.startswith("images/")}
    assert lists == set(LISTS) - {"sizes.txt"}


DAMAGE: dict[str, tuple[Edit, str]] = {
    "no hierarchy": (("hierarchy.txt", "", ""), f"hierarchy.txt: {NOT_THERE}"),
    "image of an inner class": (
        ("image_class_labels.txt", f"{B} 295", f"{B} 22"),
        "image_class_labels.txt line 2: class id 22 has classes below it in hierarchy.txt; "
        "label the image with one of those",
    ),
    "label out of range": (
        ("image_class_labels.txt", f"{B} 295", f"{B} 2950"),
        "image_class_labels.txt line 2: class id 2950 is not in classes.txt; add the class there, or correct the id",
    ),
    "unknown parent": (
        ("hierarchy.txt", "22 1\n", "22 7\n"),
        "hierarchy.txt line 2: class id 7 is not in classes.txt; add it there, or remove the line",
    ),
    "two parents": (
        ("hierarchy.txt", "817 0\n", "295 0\n"),
        "hierarchy.txt line 4: id 295 stands in hierarchy.txt line 3 already; keep one of the two",
    ),
    "two roots": (
        ("hierarchy.txt", "817 0\n", ""),
        "hierarchy.txt: classes [0, 817] have no parent, but one root is needed; restore the missing lines",
    ),
    "circle": (
        ("hierarchy.txt", "1 0\n22 1\n", "1 295\n22 1\n"),
        "hierarchy.txt line 1: class id 295 is above itself; correct the parent",
    ),
    "two classes of one name": (
        ("classes.txt", "Snow Goose", "Oak Titmouse"),
        "image_class_labels.txt line 2: class 'Oak Titmouse' has id 295 here and id 817 in image_class_labels.txt line 1; "
        "give it one id",
    ),
    "negative id": (
        ("classes.txt", "0 Birds", "-1 Birds"),
        f"classes.txt line 1: class id is -1, but this set counts from 0; {RESTORE}",
    ),
    "image id twice": (
        ("images.txt", C, A),
        "images.txt line 3: id 0000139e-21dc-4d0c-bfe1-4cae3c85c829 stands in images.txt line 1 already; "
        "keep one of the two",
    ),
    "id without its image": (
        ("images.txt", A, A.replace("-", "")),
        f"image_class_labels.txt line 1: image id {A} is not in images.txt; add the image there, or remove this entry",
    ),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_nabirds__damage(root: Path, change: Edit, message: str) -> None:
    edit(root, change)
    assert complaint(NABIRDS, root) == message
