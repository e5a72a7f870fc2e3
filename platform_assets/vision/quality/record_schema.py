"""What a table of records must look like, as a pandera schema, and where one does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platform_assets.vision.datasets.sources import annotation_types
from platform_assets.vision.datasets.splits import PARTS

if TYPE_CHECKING:
    import pandera.polars as pa
    import polars as pl

_SHA256 = "^[0-9a-f]{64}$"
_PHASH = "^[0-9a-f]{16}$"


def record_schema() -> pa.DataFrameSchema:
    """The schema of records after the split. Annotation columns may be absent; a source's own columns are let be.

    Takes seconds the first time: pandera is imported here.
    """
    import pandera.polars as pa
    import polars as pl

    def positive(kind: type[pl.DataType]) -> pa.Column:
        return pa.Column(kind, pa.Check.gt(0))

    def text(*checks: pa.Check, nullable: bool = False) -> pa.Column:
        return pa.Column(pl.String, list(checks), nullable=nullable)

    fractions = pa.Check(_channels_between_0_and_1, name="between_0_and_1")
    columns = {
        "image_id": text(pa.Check.str_matches(_SHA256)),
        "path": text(pa.Check.str_length(min_value=1)),
        "label": text(pa.Check.str_length(min_value=1)),
        "split": text(pa.Check.isin(list(PARTS))),
        "group": text(nullable=True),
        **{"width": positive(pl.Int32), "height": positive(pl.Int32), "mode": text(), "format": text()},
        **{"bytes": positive(pl.Int64), "phash": text(pa.Check.str_matches(_PHASH))},
        "pixel_mean": pa.Column(pl.Array(pl.Float32, 3), fractions),
        "pixel_std": pa.Column(pl.Array(pl.Float32, 3), fractions),
    }
    optional = {name: pa.Column(kind, nullable=True, required=False) for name, kind in annotation_types().items()}
    return pa.DataFrameSchema(columns | optional, unique=["image_id", "split"], strict=False)


def schema_problems(records: pl.DataFrame) -> pl.DataFrame:
    """One row a column and check that fail: column (null: of the whole row), check, rows, example; none for good records.

    `rows` is null where the column itself is wrong: absent, or of another type. The example names the first path.
    """
    import pandera.polars as pa
    import polars as pl

    empty = pl.DataFrame(schema={"column": pl.String, "check": pl.String, "rows": pl.Int64, "example": pl.String})
    try:
        record_schema().validate(records, lazy=True)
    except pa.errors.SchemaErrors as found:
        cases: pl.DataFrame = found.failure_cases.select(
            "column", "check", "index", value=pl.col("failure_case").cast(pl.String)
        )
    else:
        return empty
    typed = pl.col("check").str.starts_with("dtype(")
    wrong = cases.filter(typed)["column"]
    # A check on a column of another type fails as well, with a message of the library: the type says it already.
    said = cases.filter(typed | pl.col("column").is_null() | ~pl.col("column").is_in(wrong.implode()))
    paths = _paths(records)
    named = said.join(paths, on="index", how="left").sort("index", "path", nulls_last=True)
    example = pl.concat_str(pl.col("path"), pl.col("value").fill_null("null"), separator=": ", ignore_nulls=True)
    counted = named.group_by("column", "check").agg(
        rows=pl.when(pl.col("index").null_count() == 0).then(pl.col("index").n_unique().cast(pl.Int64)),
        example=example.first(),
    )
    problems: pl.DataFrame = counted.sort("column", "check", nulls_last=True).select(*empty.columns)
    return problems


def _paths(records: pl.DataFrame) -> pl.DataFrame:
    """index, path of each row, as far as there are paths."""
    import polars as pl

    known = records.schema.get("path") == pl.String
    path = records["path"] if known else pl.Series("path", [None] * records.height, dtype=pl.String)
    return pl.DataFrame([pl.int_range(records.height, dtype=pl.Int32, eager=True).alias("index"), path])


def _channels_between_0_and_1(data: pa.PolarsData) -> pl.LazyFrame:
    import polars as pl

    channels = pl.col(data.key or "").arr
    return data.lazyframe.select((channels.min() >= 0) & (channels.max() <= 1))
