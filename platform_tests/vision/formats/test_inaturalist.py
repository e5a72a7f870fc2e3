"""iNaturalist 2017: two JSON lists, ids from 0, the official val as the part that is only reported on."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platform_assets.vision.datasets.scanning import scan
from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.datasets.splits import SplitRule, assign_splits
from platform_assets.vision.formats.inaturalist import InaturalistSource
from platform_tests.vision.formats.damage import NOT_THERE, RESTORE, complaint, edit, refusal_of
from platform_tests.vision.pictures import png, write

INAT = InaturalistSource(kind="inaturalist", path="x")
TRAIN, VAL = "train2017.json", "val2017.json"
CATEGORIES = [
    {"id": 0, "name": "Ramaria stricta", "supercategory": "Fungi"},
    {"id": 1, "name": "Aix sponsa", "supercategory": "Aves"},
    {"id": 2, "name": "Bombus impatiens", "supercategory": "Insecta"},
]


def listing(first: int, labels: tuple[int, ...]) -> dict[str, Any]:
    """As published, but for info and licenses that nothing reads."""
    images, annotations = [], []
    for place, label in enumerate(labels):
        category = CATEGORIES[label]
        name = f"train_val_images/{category['supercategory']}/{category['name']}/{first + place:06d}.jpg"
        images.append({"id": first + place, "file_name": name, "width": 20, "height": 14, "license": 3})
        annotations.append({"id": first + place, "image_id": first + place, "category_id": label})
    return {"info": {"year": 2017}, "categories": CATEGORIES, "images": images, "annotations": annotations}


LISTS = {TRAIN: listing(10, (1, 0, 2, 1, 0, 2)), VAL: listing(1, (2, 0, 1))}


def store(root: Path, file: str, found: Any) -> None:
    write(root, file, json.dumps(found))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file, found in LISTS.items():
        store(tmp_path, file, found)
        for image in found["images"]:
            write(tmp_path, image["file_name"], png(image["id"]))
    return tmp_path


def test_inat__rows_and_class_order(root: Path) -> None:
    found = INAT.read(root)
    assert found.classes == ("Ramaria stricta", "Aix sponsa", "Bombus impatiens")
    assert found.rows.select("path", "label", "split", "coarse_label").rows()[:3] == [
        ("train_val_images/Aves/Aix sponsa/000003.jpg", "Aix sponsa", "test", "Aves"),
        ("train_val_images/Aves/Aix sponsa/000010.jpg", "Aix sponsa", "train", "Aves"),
        ("train_val_images/Aves/Aix sponsa/000013.jpg", "Aix sponsa", "train", "Aves"),
    ]
    assert {TRAIN, VAL} < set(source_files(INAT, root))


def test_inat__val_is_drawn_from_train_and_official_val_stays_the_test_part(root: Path) -> None:
    records = scan(INAT.read(root), root).records
    divided = assign_splits(
        records, SplitRule.model_validate({"kind": "official", "train": 0.6, "val": 0.3, "test": 0.1})
    )
    official = set(records.filter(records["split"] == "test")["path"])
    assert set(divided.filter(divided["split"] == "test")["path"]) == official
    assert set(divided["split"]) == {"train", "val", "test"}


def test_inat__order_of_records_does_not_matter(root: Path) -> None:
    before = INAT.read(root)
    for file, found in LISTS.items():
        store(root, file, {k: v[::-1] if isinstance(v, list) else v for k, v in found.items()})
    assert INAT.read(root).rows.equals(before.rows)
    assert INAT.read(root).classes == before.classes


def test_inat__image_that_is_not_on_disk_is_rejected_with_its_record(root: Path) -> None:
    path = LISTS[VAL]["images"][1]["file_name"]
    (root / path).unlink()
    detail = f"{VAL} images record 2: no such file below {root}"
    assert INAT.read(root).rejected.rows() == [(path, "missing_file", detail)]


@pytest.mark.parametrize("file", [TRAIN, VAL])
def test_inat__missing_list(root: Path, file: str) -> None:
    (root / file).unlink()
    assert complaint(INAT, root) == f"{file}: {NOT_THERE}"


def put(name: str, place: int, key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda found: found[name][place].__setitem__(key, value)


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda found: found[name].pop()


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "ids from 1": (
        lambda found: [c.__setitem__("id", c["id"] + 1) for c in found["categories"]],
        f"{VAL} categories record 1: class id 1 is 'Ramaria stricta' here and 'Aix sponsa' in {TRAIN} categories record 2; "
        "give it one name",
    ),
    "negative id": (
        put("categories", 0, "id", -1),
        f"{VAL} categories record 1: id is -1, but this set counts from 0; {RESTORE}",
    ),
    "category twice": (
        put("categories", 2, "id", 1),
        f"{VAL} categories record 3: id 1 stands in {VAL} categories record 2 already; keep one of the two",
    ),
    "other supercategory": (
        put("categories", 1, "supercategory", "Mammalia"),
        f"{VAL} categories record 2: supercategory is 'Mammalia' here and 'Aves' in {TRAIN}; restore both",
    ),
    "category out of range": (
        put("annotations", 1, "category_id", 3),
        f"{VAL} annotations record 2: class id 3 is not in categories of {VAL}; add the class there, or correct the id",
    ),
    "category is text": (
        put("annotations", 1, "category_id", "one"),
        f"{VAL} annotations record 2: category_id is 'one', not a whole number; {RESTORE}",
    ),
    "category is missing": (
        lambda found: found["annotations"][1].pop("category_id"),
        f"{VAL} annotations record 2: category_id is missing, not a whole number; {RESTORE}",
    ),
    "category is true": (
        put("annotations", 1, "category_id", True),
        f"{VAL} annotations record 2: category_id is True, not a whole number; {RESTORE}",
    ),
    "image twice": (
        put("images", 2, "id", 1),
        f"{VAL} images record 3: id 1 stands in {VAL} images record 1 already; keep one of the two",
    ),
    "annotated twice": (
        put("annotations", 2, "image_id", 1),
        f"{VAL} annotations record 3: id 1 stands in {VAL} annotations record 1 already; keep one of the two",
    ),
    "annotation without image": (
        drop("images"),
        f"{VAL} annotations record 3: image id 3 is not in images of {VAL}; add the image there, or remove this entry",
    ),
    "image without annotation": (
        drop("annotations"),
        f"{VAL} images record 3: image id 3 has no entry in annotations of {VAL}; "
        "add one, or remove the image everywhere",
    ),
    "no file name": (
        put("images", 0, "file_name", ""),
        f"{VAL} images record 1: file_name is '', not a text; {RESTORE}",
    ),
    "record is no object": (
        lambda found: found["images"].append(7),
        f"{VAL} images record 4: not an object; {RESTORE}",
    ),
    "no list": (lambda found: found.pop("annotations"), f"{VAL}: has no list 'annotations'; {RESTORE}"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_inat__damage(root: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    found = copy.deepcopy(LISTS[VAL])
    change(found)
    store(root, VAL, found)
    assert complaint(INAT, root) == message


def test_inat__gap_in_the_category_ids(root: Path) -> None:
    for file, found in copy.deepcopy(LISTS).items():
        found["categories"][2]["id"] = 5
        for annotation in found["annotations"]:
            annotation["category_id"] = {2: 5}.get(annotation["category_id"], annotation["category_id"])
        store(root, file, found)
    assert complaint(INAT, root) == (
        f"categories of {TRAIN} and {VAL}: 3 classes have the ids 0 to 2, but id 2 is missing; {RESTORE}"
    )


BROKEN = {
    "cut off": (b'{"images": [\n1,\n', f"{VAL} line 3: not JSON (Expecting value); {RESTORE}"),
    "not UTF-8": (b'{"images":\n"\xe9"}', f"{VAL} line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
    "too deep": (b"[" * 200_000, f"{VAL}: JSON nested too deep; {RESTORE}"),
    "a number too long": (b"9" * 5000, f"{VAL}: not JSON (a number of over 4,300 digits); {RESTORE}"),
    "a list": (b"[]", f"{VAL}: has no list 'categories'; {RESTORE}"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_inat__file_that_is_not_json(root: Path, data: bytes, message: str) -> None:
    (root / VAL).write_bytes(data)
    assert complaint(INAT, root) == message


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    found=st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_inat__any_value_in_place_of_an_id_is_read_or_refused(root: Path, found: object) -> None:
    lists = copy.deepcopy(LISTS[VAL])
    lists["annotations"][0]["category_id"] = found
    store(root, VAL, lists)
    message = refusal_of(lambda: INAT.read(root))
    if message is None:
        assert isinstance(found, int | float | str)
        assert float(found) in (0, 1, 2)
    else:
        assert message.startswith(f"{VAL} annotations record 1: ")


def test_inat__file_name_that_leaves_the_root_is_rejected(root: Path) -> None:
    write(root.parent, "secret.jpg", png())
    edit(root, (VAL, LISTS[VAL]["images"][0]["file_name"], "../secret.jpg"))
    assert INAT.read(root).rejected["reason"].to_list() == ["outside_root"]
