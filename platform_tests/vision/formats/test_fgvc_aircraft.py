"""FGVC-Aircraft: three levels of label, official train, val and test, boxes that count from 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.fgvc_aircraft import FgvcAircraftSource, Level
from platform_tests.vision.formats.damage import NOT_THERE, RESTORE, Edit, complaint, edit
from platform_tests.vision.pictures import png, write

AIRCRAFT = FgvcAircraftSource(kind="fgvc_aircraft", path="x")
FILES = {
    "data/variants.txt": "707-320\nA300B4\nF/A-18\nBAE 146-200\n",
    "data/families.txt": "A300\nBoeing 707\nBAE 146\nF/A-18\n",
    "data/manufacturers.txt": "Airbus\nBoeing\nBritish Aerospace\nMcDonnell Douglas\n",
    "data/images_variant_train.txt": "0034309 A300B4\n1025794 707-320\n",
    "data/images_variant_val.txt": "0000002 BAE 146-200\n",
    "data/images_variant_test.txt": "0000001 F/A-18\n",
    "data/images_family_train.txt": "0034309 A300\n1025794 Boeing 707\n",
    "data/images_family_val.txt": "0000002 BAE 146\n",
    "data/images_family_test.txt": "0000001 F/A-18\n",
    "data/images_manufacturer_train.txt": "0034309 Airbus\n1025794 Boeing\n",
    "data/images_manufacturer_val.txt": "0000002 British Aerospace\n",
    "data/images_manufacturer_test.txt": "0000001 McDonnell Douglas\n",
    "data/images_box.txt": "0034309 14 80 1009 366\n1025794 3 144 998 431\n0000001 1 1 20 14\n0000002 2 3 9 9\n",
}
IDS = ("0000001", "0000002", "0034309", "1025794")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file, text in FILES.items():
        write(tmp_path, file, text)
    for seed, key in enumerate(IDS):
        write(tmp_path, f"data/images/{key}.jpg", png(seed))
    return tmp_path


def test_aircraft__variants_in_the_order_of_their_file(root: Path) -> None:
    found = AIRCRAFT.read(root)
    assert found.classes == ("707-320", "A300B4", "F/A-18", "BAE 146-200")
    columns = ("path", "label", "split", "hierarchy", "box")
    assert found.rows.select(columns).rows() == [
        (f"data/images/{key}.jpg", label, split, hierarchy, box)
        for key, label, split, hierarchy, box in (
            (IDS[0], "F/A-18", "test", ["McDonnell Douglas", "F/A-18"], [0.0, 0.0, 20.0, 14.0]),
            (IDS[1], "BAE 146-200", "val", ["British Aerospace", "BAE 146"], [1.0, 2.0, 8.0, 7.0]),
            (IDS[2], "A300B4", "train", ["Airbus", "A300"], [13.0, 79.0, 996.0, 287.0]),
            (IDS[3], "707-320", "train", ["Boeing", "Boeing 707"], [2.0, 143.0, 996.0, 288.0]),
        )
    ]


LEVELS: dict[Level, tuple[tuple[str, ...], str, list[str], int]] = {
    "variant": (("707-320", "A300B4", "F/A-18", "BAE 146-200"), "707-320", ["Boeing", "Boeing 707"], 13),
    "family": (("A300", "Boeing 707", "BAE 146", "F/A-18"), "Boeing 707", ["Boeing"], 9),
    "manufacturer": (("Airbus", "Boeing", "British Aerospace", "McDonnell Douglas"), "Boeing", [], 5),
}


@pytest.mark.parametrize("level", LEVELS)
def test_aircraft__level_is_the_label_and_hierarchy_is_above_it(root: Path, level: Level) -> None:
    source = FgvcAircraftSource(kind="fgvc_aircraft", path="x", level=level)
    classes, label, hierarchy, files = LEVELS[level]
    found = source.read(root)
    assert found.classes == classes
    assert found.rows["label"][3] == label
    assert found.rows["hierarchy"].to_list()[3] == hierarchy
    assert len(source_files(source, root)) == len(IDS) + files


def test_aircraft__lists_above_the_level_only(root: Path) -> None:
    for file in FILES:
        if "variant" in file:
            (root / file).unlink()
    assert len(FgvcAircraftSource(kind="fgvc_aircraft", path="x", level="family").read(root).rows) == 4


def test_aircraft__image_that_is_not_on_disk_is_rejected_with_its_line(root: Path) -> None:
    (root / "data/images/1025794.jpg").unlink()
    detail = f"data/images_variant_train.txt line 2: no such file below {root}"
    assert AIRCRAFT.read(root).rejected.rows() == [("data/images/1025794.jpg", "missing_file", detail)]


@pytest.mark.parametrize("file", FILES)
def test_aircraft__missing_file(root: Path, file: str) -> None:
    (root / file).unlink()
    assert complaint(AIRCRAFT, root) == f"{file}: {NOT_THERE}"


DAMAGE: dict[str, tuple[Edit, str]] = {
    "unknown variant": (
        ("data/images_variant_val.txt", "BAE 146-200", "BAE 146-300"),
        "data/images_variant_val.txt line 1: variant 'BAE 146-300' is not in data/variants.txt; "
        "add it there, or correct the label",
    ),
    "unknown manufacturer": (
        ("data/images_manufacturer_val.txt", "British Aerospace", "British"),
        "data/images_manufacturer_val.txt line 1: manufacturer 'British' is not in data/manufacturers.txt; "
        "add it there, or correct the label",
    ),
    "class twice": (
        ("data/variants.txt", "A300B4", "707-320"),
        "data/variants.txt line 2: id 707-320 stands in data/variants.txt line 1 already; keep one of the two",
    ),
    "image in two parts": (
        ("data/images_variant_val.txt", "0000002", "0034309"),
        "data/images_variant_val.txt line 1: id 0034309 stands in data/images_variant_train.txt line 1 already; "
        "keep one of the two",
    ),
    "image without label": (
        ("data/images_variant_train.txt", "1025794 707-320", "1025794"),
        f"data/images_variant_train.txt line 2: 1 columns instead of 2 (image id, label); {RESTORE}",
    ),
    "image without box": (
        ("data/images_box.txt", "1025794 3 144 998 431\n", ""),
        "data/images_variant_train.txt line 2: image id 1025794 has no entry in data/images_box.txt; "
        "add one, or remove the image everywhere",
    ),
    "box too many": (
        ("data/images_box.txt", "0000002 2", "0000003 2 3 9 9\n0000002 2"),
        "data/images_box.txt line 4: image id 0000003 is not in data/images_variant_*.txt; "
        "add the image there, or remove this entry",
    ),
    "image without family": (
        ("data/images_family_train.txt", "1025794 Boeing 707\n", ""),
        "data/images_variant_train.txt line 2: image id 1025794 has no entry in data/images_family_*.txt; "
        "add one, or remove the image everywhere",
    ),
    "parts disagree": (
        ("data/images_family_train.txt", "1025794 Boeing 707\n", "1025794 Boeing 707\n0000002 BAE 146\n"),
        "data/images_family_val.txt line 1: id 0000002 stands in data/images_family_train.txt line 3 already; "
        "keep one of the two",
    ),
    "broken box": (
        ("data/images_box.txt", "144", "l44"),
        f"data/images_box.txt line 2: ymin is 'l44', not a number; {RESTORE}",
    ),
    "box the wrong way round": (
        ("data/images_box.txt", "998 431", "2 431"),
        "data/images_box.txt line 2: the box is 0 x 288 pixels, both must be positive; correct the box",
    ),
    "not UTF-8": (
        ("data/families.txt", "Boeing 707", "Bo\xebing 707"),
        "data/families.txt line 2: byte 0xeb is not UTF-8; save the file as UTF-8",
    ),
    "empty": (
        ("data/images_variant_val.txt", "0000002 BAE 146-200\n", ""),
        f"data/images_variant_val.txt: the file is empty; {RESTORE}",
    ),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_aircraft__damage(root: Path, change: Edit, message: str) -> None:
    edit(root, change)
    assert complaint(AIRCRAFT, root) == message


def test_aircraft__part_that_differs_by_level(root: Path) -> None:
    edit(root, ("data/images_family_train.txt", "1025794 Boeing 707\n", ""))
    edit(root, ("data/images_family_val.txt", "0000002 BAE 146\n", "0000002 BAE 146\n1025794 Boeing 707\n"))
    assert complaint(AIRCRAFT, root) == (
        "data/images_family_val.txt line 2: image id 1025794 is val here and train in "
        "data/images_variant_train.txt line 2; restore the lists"
    )


def test_aircraft__image_id_that_leaves_the_root_is_rejected(root: Path) -> None:
    write(root.parent, "secret.jpg", png())
    for file in ("variant_val", "family_val", "manufacturer_val", "box"):
        edit(root, (f"data/images_{file}.txt", "0000002", "../../../secret"))
    assert AIRCRAFT.read(root).rejected["reason"].to_list() == ["outside_root"]
