"""The snapshot kind: an unpacked snapshot read back as the dataset it was."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from platform_assets.vision.datasets.scanning import ChangedImage, scan
from platform_assets.vision.datasets.sources import BadSource, annotation_types, source_files
from platform_assets.vision.formats.snapshot import CLASSES_FILE, RECORDS_FILE, SnapshotSource, write_listing
from platform_tests.vision.pictures import png, write

SOURCE = SnapshotSource(kind="snapshot", dataset="birds", name="spring")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = []
    for number, label in enumerate(["b", "a", "b", "a"]):
        write(tmp_path, f"{label}/{number}.png", png(number))
        image_id = hashlib.sha256(png(number)).hexdigest()
        part = ("train", "val")[number // 2]
        rows.append({"path": f"{label}/{number}.png", "label": label, "split": part, "image_id": image_id})
    records = pl.DataFrame(rows).with_columns(
        group=pl.lit(None, pl.String),
        box=pl.Series([[1, 2, 3, 4]] * 4, dtype=annotation_types()["box"]),
        camera=pl.lit("left"),
    )
    write_listing(tmp_path, records, ("c", "b", "a"))
    return tmp_path


def test_snapshot__parts_class_order_boxes_and_extras_come_back(root: Path) -> None:
    found = scan(SOURCE.read(root), root)
    assert found.label_map.names == ("c", "b", "a")
    assert dict(found.records.select("path", "split").iter_rows())["a/3.png"] == "val"
    assert found.records["box"].to_list() == [[1, 2, 3, 4]] * 4
    assert found.records["camera"].to_list() == ["left"] * 4
    assert found.rejected.is_empty()


def test_snapshot__an_image_that_was_overwritten_is_refused(root: Path) -> None:
    """It was trained on under the version of the snapshot."""
    kept, other = (hashlib.sha256(png(number)).hexdigest()[:12] for number in (1, 9))
    (root / "a/1.png").write_bytes(png(9))
    cure = f"delete {root}: it is unpacked again from the snapshot"
    with pytest.raises(ChangedImage) as raised:
        scan(SOURCE.read(root), root)
    assert str(raised.value) == f"{root}/a/1.png: its bytes give {other}, {kept} was kept; {cure}"
    (root / "a/1.png").unlink()
    (root / "b/2.png").write_bytes(b"")
    with pytest.raises(ChangedImage, match=rf"a/1.png: .*, {kept} was kept, and 1 more files; delete {root}"):
        scan(SOURCE.read(root), root)


def test_snapshot__its_listing_is_part_of_its_version(root: Path) -> None:
    assert {RECORDS_FILE, CLASSES_FILE} < set(source_files(SOURCE, root))


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_snapshot__a_name_that_is_a_path_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        SnapshotSource(kind="snapshot", dataset="birds", name=name)


def test_snapshot__a_damaged_listing_is_named_with_the_cure(root: Path) -> None:
    pl.read_parquet(root / RECORDS_FILE).drop("label").write_parquet(root / RECORDS_FILE)
    with pytest.raises(
        BadSource, match=r"\.snapshot\.parquet: columns \['label'\] are missing; delete .*unpacked again"
    ):
        SOURCE.read(root)
    (root / RECORDS_FILE).write_bytes(b"no parquet")
    with pytest.raises(BadSource, match=r"\.snapshot\.parquet: not readable"):
        SOURCE.read(root)


@pytest.mark.parametrize("text", ["[", '{"a": 1}', "[1, 2]", None])
def test_snapshot__a_damaged_class_list_is_named(root: Path, text: str | None) -> None:
    (root / CLASSES_FILE).unlink()
    if text is not None:
        (root / CLASSES_FILE).write_text(text)
    with pytest.raises(BadSource, match=r"\.snapshot\.json: not readable .*; delete .*: it is unpacked again"):
        SOURCE.read(root)
