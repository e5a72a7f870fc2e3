"""Rows of an answer as aligned columns, CSV, JSON or Parquet, batch by batch: an answer may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, Literal

from platform_assets.commands.columns import print_columns

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

RowFormat = Literal["columns", "csv", "json", "parquet"]
_WIDEST_CELL = 60


def print_rows(rows: Iterable[tuple[Any, ...]], names: list[str]) -> None:
    """Aligned columns, long cells cut."""
    print_columns([tuple(names), *(tuple(_cell(value) for value in row) for row in rows)])


def write_csv(batches: Iterable[pa.RecordBatch], names: list[str], file: IO[bytes]) -> None:
    """One line of names, one a row; lists and maps are JSON."""
    import polars as pl

    file.write(pl.DataFrame(schema=names).write_csv().encode())
    for batch in batches:
        file.write(_flat(_frame(batch)).write_csv(include_header=False).encode())


def write_json(batches: Iterable[pa.RecordBatch], file: IO[bytes]) -> None:
    """One array of objects."""
    before = "[\n"
    for batch in batches:
        for line in _frame(batch).write_ndjson().splitlines():
            file.write(f"{before}{line}".encode())
            before = ",\n"
    file.write(b"\n]\n" if before != "[\n" else b"[]\n")


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, file: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def _frame(rows: pa.RecordBatch) -> pl.DataFrame:
    import polars as pl

    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(pl.Series(name, list(_texts(frame[name])), dtype=pl.String) for name in nested)


def _texts(column: pl.Series) -> Iterator[str | None]:
    return (None if value is None else json.dumps(value, default=str) for value in column.to_list())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _WIDEST_CELL else f"{text[: _WIDEST_CELL - 3]}..."
