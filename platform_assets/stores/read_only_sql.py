"""A DuckDB in memory that reads the files it was given and nothing else."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


class NotASelect(ValueError):
    """A statement that does more than read."""


@contextmanager
def reading_database(
    folders: Sequence[Path], files: Sequence[Path] = (), *, memory_gb: float | None = None, spill: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads below these folders and these files alone, fetches no extension and takes no setting.

    What does not fit into `memory_gb` goes to `spill`.
    """
    import duckdb

    with duckdb.connect(config={"autoinstall_known_extensions": False}) as database:
        # DuckDB compares the pattern first, then each file that it found: both spellings of a folder are needed.
        roots = [text for folder in folders for text in (str(folder), glob.escape(str(folder)))]
        database.execute(f"SET allowed_directories = [{', '.join(map(quoted, roots))}]")
        database.execute(f"SET allowed_paths = [{', '.join(quoted(str(file)) for file in files)}]")
        if memory_gb is not None:
            database.execute(f"SET memory_limit = '{memory_gb}GB'")
        if spill is not None:
            database.execute(f"SET temp_directory = {quoted(str(spill))}")
        database.execute("SET enable_external_access = false; SET lock_configuration = true")
        yield database


def require_one_select(database: duckdb.DuckDBPyConnection, query: str) -> None:
    """Raises NotASelect, and duckdb.ParserException for what is no SQL."""
    import duckdb

    if [statement.type for statement in database.extract_statements(query)] != [duckdb.StatementType.SELECT]:
        raise NotASelect(f"{query!r}: not one SELECT statement; tables are written by their assets alone")


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
