"""Parquet tables mean what text tables do, and damaged ones are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from platform_assets.vision.datasets.sources import BadSource, source_files
from platform_assets.vision.formats.parquet import ParquetSource
from platform_assets.vision.formats.tables import TableSource
from platform_tests.vision.formats.damage import complaint
from platform_tests.vision.pictures import write

COLUMNS = {"path": "file", "label": "class"}


def parquet(**more: Any) -> ParquetSource:
    return ParquetSource.model_validate(
        {"kind": "parquet", "path": "x", "files": "t.parquet", "columns": COLUMNS, **more}
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "abc":
        write(tmp_path, f"i/{name}.png", "bytes are not looked at here")
    return tmp_path


def test_parquet__reads_what_the_text_table_reads(root: Path) -> None:
    frame = pl.DataFrame(
        {
            "file": ["i/a.png", "./i//b.png", None, "../x.png", "i/c.png"],
            "class": ["dog", " cat ", "cat", "cat", None],
            "part": ["train", "validation", None, None, "dev"],
            "bird": [1, None, 3, 4, 5],
            "note": ["x", "", None, "y", "z"],
        }
    )
    frame.write_parquet(root / "t.parquet")
    frame.write_csv(root / "t.csv")
    said = {"columns": COLUMNS | {"split": "part", "group": "bird"}, "extra": {"remark": "note"}}
    spec = {"kind": "table", "path": "x", "files": "t.csv", "header": True, **said}
    text, found = TableSource.model_validate(spec).read(root), parquet(**said).read(root)
    assert found.rows.rows() == text.rows.rows() != []
    assert found.rejected.select("path", "reason").sort("reason").rows() == [
        ("t.parquet:3", "malformed_row"),
        ("i/c.png", "missing_label"),
        ("../x.png", "outside_root"),
    ]
    assert "t.parquet row 4: only relative paths without `..` are read" in found.rejected["detail"]
    assert source_files(parquet(**said), root) == ["i/a.png", "i/b.png", "i/c.png", "t.parquet"]


def test_parquet__numbers_are_ids_and_bins(root: Path) -> None:
    write(root, "names.csv", "id,name\n10,dog\n2,cat\n")
    frame = pl.DataFrame({"file": ["i/a.png", "i/b.png"], "class": pl.Series([10, 2], dtype=pl.UInt8), "p": [0.5, 0.9]})
    frame.write_parquet(root / "t.parquet")
    found = parquet(label_names={"file": "names.csv", "id": "id", "name": "name"}).read(root)
    assert (found.classes, found.rows["label"].to_list()) == (("cat", "dog"), ["dog", "cat"])
    bins = parquet(columns={"path": "file", "label": "p"}, label_bins={"breaks": [0.5], "names": ["low", "high"]})
    assert bins.read(root).rows["label"].to_list() == ["low", "high"]


def test_parquet__categories_are_text(root: Path) -> None:
    frame = pl.DataFrame({"file": ["i/a.png", "i/b.png"], "class": pl.Series(["x", "y"], dtype=pl.Categorical)})
    frame.write_parquet(root / "t.parquet")
    assert parquet().read(root).rows["label"].to_list() == ["x", "y"]


def test_parquet__one_file_a_part(root: Path) -> None:
    for name, image in (("tr", "i/a.png"), ("te", "i/b.png")):
        pl.DataFrame({"file": [image], "class": ["x"]}).write_parquet(root / f"{name}.parquet")
    found = parquet(files={"train": "tr.parquet", "test": "te.parquet"}).read(root)
    assert found.rows.select("path", "split").rows() == [("i/a.png", "train"), ("i/b.png", "test")]


def test_parquet__bad_tables_are_errors(root: Path) -> None:
    frame = pl.DataFrame({"file": ["i/a.png"], "label": ["x"], "class": [{"bytes": b"x"}], "raw": [b"x"]})
    frame.write_parquet(root / "t.parquet")
    assert complaint(parquet(columns={"path": "path", "label": "label"}), root) == (
        "{root}/t.parquet: columns ['path'] are none of ['file', 'label', 'class', 'raw']; correct columns"
    )
    assert complaint(parquet(), root) == (
        "{root}/t.parquet: column 'class' is Struct({'bytes': Binary}), neither text nor a number; name another, images "
        "must be files"
    )
    assert "column 'raw' is Binary, neither" in complaint(parquet(columns={"path": "raw", "label": "label"}), root)
    write(root, "t.parquet", "file,class\n")
    assert complaint(parquet(), root).startswith("{root}/t.parquet: not a whole Parquet table (")
    assert complaint(parquet(files="gone.parquet"), root) == (
        "table gone.parquet of {root}: no such file below {root}; correct the table's name in the source"
    )


@pytest.mark.parametrize("damage", ["byte", "cut"])
def test_parquet__damaged_anywhere_it_is_an_error_or_rows(tmp_path: Path, damage: str) -> None:
    # polars does not only raise for such files, it panics.
    file = tmp_path / "t.parquet"
    pl.DataFrame({"file": ["i/a.png"] * 3, "class": ["x", "y", "z"]}).write_parquet(file)
    data = file.read_bytes()
    errors = 0
    for at in range(0, len(data), 2):
        file.write_bytes(data[:at] if damage == "cut" else data[:at] + b"\xff" + data[at + 1 :])
        try:
            found = parquet().read(tmp_path)
        except BadSource:
            errors += 1
        else:
            assert found.rows.is_empty()
    assert errors > len(data) // 8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"columns": {"path": 0, "label": "class"}}, r"columns \[0\] are given by position"),
        ({"extra": {"box": "b"}}, "have names that the records table uses itself"),
        ({"classes": ["a"], "label_bins": {"breaks": [1], "names": ["a", "b"]}}, "each define the class list"),
        ({"header": True}, "Extra inputs are not permitted"),
    ],
)
def test_parquet__bad_yaml_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parquet(**more)
