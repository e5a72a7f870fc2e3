"""The schema of records: good ones pass, every kind of damage is named with its column, check and first path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from platform_assets.vision.datasets.scanning import scan
from platform_assets.vision.datasets.sources import annotation_types
from platform_assets.vision.formats.folder import FolderSource
from platform_assets.vision.quality.record_schema import schema_problems
from platform_tests.vision.pictures import png, write


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    root: Path = tmp_path_factory.mktemp("photos")
    for index in range(6):
        write(root, f"{'train' if index < 3 else 'test'}/{'ab'[index % 2]}/{index}.png", png(index))
    source = FolderSource(kind="folder", path=str(root))
    return scan(source.read(root), root).records


def changed(records: pl.DataFrame, column: str, value: Any, row: int = 2) -> pl.DataFrame:
    whole = pl.lit(value, dtype=records.schema[column])
    return records.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(whole).otherwise(pl.col(column)).alias(column)
    )


def test_schema__records_of_a_scan_are_good(records: pl.DataFrame) -> None:
    assert schema_problems(records).is_empty()


def test_schema__annotations_and_own_columns_are_allowed(records: pl.DataFrame) -> None:
    more = records.with_columns(
        *(pl.lit(None, dtype=kind).alias(name) for name, kind in annotation_types().items()), weather=pl.lit("fog")
    )
    assert schema_problems(more).is_empty()


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("image_id", "AB" * 32, "str_matches"),
        ("phash", "12", "str_matches"),
        ("split", "dev", "isin"),
        ("split", None, "not_nullable"),
        ("width", 0, "greater_than"),
        ("bytes", -1, "greater_than"),
        ("label", "", "str_length"),
        ("pixel_mean", [0.5, 0.5, 1.5], "between_0_and_1"),
    ],
)
def test_schema__one_bad_value_is_named(records: pl.DataFrame, column: str, value: Any, check: str) -> None:
    found = schema_problems(changed(records, column, value)).row(0, named=True)
    assert (found["column"], found["rows"]) == (column, 1)
    assert found["check"].startswith(check)
    assert found["example"].startswith(f"{records['path'][2]}: ")


def test_schema__an_absent_column_and_another_type_are_one_problem_each(records: pl.DataFrame) -> None:
    found = schema_problems(records.drop("mode").with_columns(pl.col("width").cast(pl.String)))
    assert set(found["check"]) == {"column_in_dataframe", "dtype('Int32')"}
    assert found["rows"].to_list() == [None, None]


def test_schema__an_annotation_of_another_type_is_named(records: pl.DataFrame) -> None:
    assert schema_problems(records.with_columns(box=pl.lit("1 2 3 4")))["column"].to_list() == ["box"]


def test_schema__the_same_image_twice_in_a_part(records: pl.DataFrame) -> None:
    found = schema_problems(pl.concat([records, records.head(1)])).row(0, named=True)
    assert (found["column"], found["check"], found["rows"]) == (None, "multiple_fields_uniqueness", 2)
