"""Oxford-IIIT Pet: three lists that must agree, trimaps for all images and head boxes for some."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform_assets.vision.datasets.scanning import hash_files, source_version
from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.formats.oxford_pet import OxfordPetSource
from platform_tests.vision.formats.damage import NOT_THERE, RESTORE, Edit, complaint, edit
from platform_tests.vision.pictures import png, write

PETS = OxfordPetSource(kind="oxford_pet", path="x")
LIST, TRAINVAL, TEST = "annotations/list.txt", "annotations/trainval.txt", "annotations/test.txt"
HEAD = "annotations/xmls/Abyssinian_100.xml"
FILES = {
    LIST: "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n#SPECIES: 1:Cat 2:Dog\n#BREED ID: 1-25:Cat 1:12:Dog\n"
    "#All images with 1st letter as captial are cat images\n#images with small first letter are dog images\n"
    "Abyssinian_100 1 1 1\nAbyssinian_101 1 1 1\namerican_bulldog_100 2 2 1\nEgyptian_Mau_7 3 1 2\n",
    TRAINVAL: "Abyssinian_100 1 1 1\namerican_bulldog_100 2 2 1\n",
    TEST: "Abyssinian_101 1 1 1\nEgyptian_Mau_7 3 1 2\n",
    HEAD: "<annotation><folder>OXIIIT</folder><filename>Abyssinian_100.jpg</filename><object><name>cat</name>"
    "<bndbox><xmin>1</xmin><ymin>72</ymin><xmax>425</xmax><ymax>158</ymax></bndbox></object></annotation>\n",
}
NAMES = ("Abyssinian_100", "Abyssinian_101", "Egyptian_Mau_7", "american_bulldog_100")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file, text in FILES.items():
        write(tmp_path, file, text)
    for seed, name in enumerate(NAMES):
        write(tmp_path, f"images/{name}.jpg", png(seed))
        write(tmp_path, f"annotations/trimaps/{name}.png", png(100 + seed))
        write(tmp_path, f"annotations/trimaps/._{name}.png", "as the archive has it")
    return tmp_path


def test_pets__rows_and_class_order(root: Path) -> None:
    found = PETS.read(root)
    assert found.classes == ("Abyssinian", "american_bulldog", "Egyptian_Mau")
    columns = ("path", "label", "split", "coarse_label", "box", "mask")
    assert found.rows.select(columns).rows() == [
        (f"images/{name}.jpg", label, split, species, box, f"annotations/trimaps/{name}.png")
        for name, label, split, species, box in (
            (NAMES[0], "Abyssinian", "train", "cat", [0.0, 71.0, 425.0, 87.0]),
            (NAMES[1], "Abyssinian", "test", "cat", None),
            (NAMES[2], "Egyptian_Mau", "test", "cat", None),
            (NAMES[3], "american_bulldog", "train", "dog", None),
        )
    ]


@pytest.mark.parametrize("file", [*FILES, "annotations/trimaps/Abyssinian_101.png"])
def test_pets__every_annotation_is_part_of_the_version(root: Path, file: str) -> None:
    before = source_version(hash_files(root, source_files(PETS, root)))
    (root / file).write_bytes((root / file).read_bytes() + b"\n")
    assert source_version(hash_files(root, source_files(PETS, root))) != before


def test_pets__image_that_is_not_on_disk_is_rejected_with_its_line(root: Path) -> None:
    (root / "images/Abyssinian_101.jpg").unlink()
    detail = f"{LIST} line 8: no such file below {root}"
    assert PETS.read(root).rejected.rows() == [("images/Abyssinian_101.jpg", "missing_file", detail)]


@pytest.mark.parametrize("file", [LIST, TRAINVAL, TEST])
def test_pets__missing_list(root: Path, file: str) -> None:
    (root / file).unlink()
    assert complaint(PETS, root) == f"{file}: {NOT_THERE}"


def test_pets__head_behind_a_link_out_is_refused(root: Path) -> None:
    (root / "annotations/xmls/Abyssinian_101.xml").symlink_to(write(root.parent, "outside.xml", FILES[HEAD]))
    message = complaint(PETS, root)
    assert message.startswith("annotations/xmls/Abyssinian_101.xml: links to ")


DAMAGE: dict[str, tuple[Edit, str]] = {
    "lists disagree": (
        (TEST, "Egyptian_Mau_7 3 1 2", "Egyptian_Mau_7 1 1 2"),
        f"{TEST} line 2: does not say what {LIST} line 10 says of Egyptian_Mau_7; restore both as published",
    ),
    "image in both parts": (
        (TEST, "Abyssinian_101", "Abyssinian_100"),
        f"{TEST} line 1: id Abyssinian_100 stands in {TRAINVAL} line 1 already; keep one of the two",
    ),
    "image in no part": (
        (TEST, "Abyssinian_101 1 1 1\n", ""),
        f"{LIST} line 8: image id Abyssinian_101 has no entry in {TRAINVAL} or {TEST}; "
        "add one, or remove the image everywhere",
    ),
    "image that list.txt lacks": (
        (LIST, "Egyptian_Mau_7 3 1 2\n", ""),
        f"{TEST} line 2: image id Egyptian_Mau_7 is not in {LIST}; add the image there, or remove this entry",
    ),
    "image twice": (
        (LIST, "Abyssinian_101", "Abyssinian_100"),
        f"{LIST} line 8: id Abyssinian_100 stands in {LIST} line 7 already; keep one of the two",
    ),
    "no trimap": (
        ("annotations/trimaps/Egyptian_Mau_7.png", "", ""),
        f"{LIST} line 10: trimap annotations/trimaps/Egyptian_Mau_7.png: no such file below {{root}}; "
        "unpack the annotations again",
    ),
    "column too many": (
        (LIST, "Abyssinian_101 1 1 1", "Abyssinian_101 1 1 1 1"),
        f"{LIST} line 8: 5 columns instead of 4 (image, class id, species, breed id); {RESTORE}",
    ),
    "head box the wrong way round": (
        (HEAD, "425", "0"),
        f"{HEAD} object 1: the box is 0 x 87 pixels, both must be positive; correct the box",
    ),
    "head is no XML": ((HEAD, "<annotation>", ""), f"{HEAD} line 1: not XML (junk after document element: "),
    "not UTF-8": (
        (LIST, "Egyptian_Mau", "Egyptian_M\xe4u"),
        f"{LIST} line 10: byte 0xe4 is not UTF-8; save the file as UTF-8",
    ),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE)
def test_pets__damage(root: Path, change: Edit, message: str) -> None:
    edit(root, change)
    found = complaint(PETS, root)
    assert found.startswith(message) if message.endswith(": ") else found == message


EVERYWHERE: dict[str, tuple[str, str, str]] = {
    "unknown species": (
        "Egyptian_Mau_7 3 1 2",
        "Egyptian_Mau_7 3 3 2",
        f"species is 3, not 1 (cat) or 2 (dog); {RESTORE}",
    ),
    "class ids from 0": (
        "Egyptian_Mau_7 3 1 2",
        "Egyptian_Mau_7 0 1 2",
        f"class id is 0, but this set counts from 1; {RESTORE}",
    ),
    "one id for two breeds": (
        "Egyptian_Mau_7 3 1 2",
        "Egyptian_Mau_7 2 1 2",
        f"class id 2 is 'Egyptian_Mau' here and 'american_bulldog' in {LIST} line 9; give it one name",
    ),
    "name without number": (
        "Egyptian_Mau_7 3",
        "EgyptianMau7 3",
        f"image 'EgyptianMau7' is not named breed_number; {RESTORE}",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), EVERYWHERE.values(), ids=EVERYWHERE)
def test_pets__damage_in_both_lists(root: Path, old: str, new: str, message: str) -> None:
    for file in (LIST, TEST):
        edit(root, (file, old, new))
    assert complaint(PETS, root) == f"{LIST} line 10: {message}"


def test_pets__gap_in_the_class_ids(root: Path) -> None:
    for file in (LIST, TEST):
        edit(root, (file, "Egyptian_Mau_7 3", "Egyptian_Mau_7 5"))
    assert complaint(PETS, root) == f"{LIST}: 3 classes have the ids 1 to 3, but id 3 is missing; {RESTORE}"
