"""Parquet tables, one row an image, columns by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from platform_assets.vision.datasets.sources import BadSource
from platform_assets.vision.formats.tables import Table

if TYPE_CHECKING:
    import polars as pl


class ParquetSource(Table):
    """Parquet tables that mean what text tables do: every value is taken as the text that it would be there.

    Columns are given by name. A null is an empty cell; images themselves must be files.
    """

    kind: Literal["parquet"]

    row_word: ClassVar[str] = "row"

    @model_validator(mode="after")
    def _by_name(self) -> ParquetSource:
        if positions := [ref for ref in self.column_refs().values() if isinstance(ref, int)]:
            raise ValueError(
                f"columns {positions} are given by position; a Parquet table's columns have names, give those"
            )
        return self

    def rows(self, file: Path) -> Iterator[tuple[int, dict[str, str]]]:
        """Rows count from 1, as lines do."""
        refs = {name: str(ref) for name, ref in self.column_refs().items()}
        frame = text_columns(file, sorted(set(refs.values())))
        for number, values in enumerate(frame.iter_rows(named=True), 1):
            yield number, {name: (values[column] or "").strip() for name, column in refs.items()}


def text_columns(file: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of a Parquet file, each value as text. Raises BadSource."""
    import polars as pl

    try:
        schema = pl.read_parquet_schema(file)
        if absent := sorted(set(columns).difference(schema)):
            raise BadSource(f"{file}: columns {absent} are none of {list(schema)}; correct columns")
        for name in columns:
            if schema[name].is_nested() or schema[name] in (pl.Binary, pl.Object):
                said = f"column {name!r} is {schema[name]}, neither text nor a number"
                raise BadSource(f"{file}: {said}; name another, images must be files")
        return pl.read_parquet(file, columns=list(columns)).select(pl.col(columns).cast(pl.String))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        said = str(error).splitlines()[0]
        raise BadSource(f"{file}: not a whole Parquet table ({said}); write the file again") from error
