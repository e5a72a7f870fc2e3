"""SQL over the tables of every dataset and experiment, and over all MLflow runs. What is asked often is in questions.py."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from platform_assets.stores.read_only_sql import quoted, reading_database, require_one_select
from platform_assets.stores.tables import VERSIONS

if TYPE_CHECKING:
    import duckdb

    from platform_assets.stores.run_table import RunTable

RUNS = "runs"
MEMORY_GB = 1.0
# A list of floats an image: most of the bytes of a prediction, and seldom what is asked for.
VECTORS = ("logits", "probabilities")
# DuckDB's own get_table_names binds the query, and cannot before the views are there.
_WORD = re.compile(r"\w+")
_TRIAL = re.compile(r".+__s\d+")


class UnknownName(ValueError):
    """A query names a view or a column that is not there."""


class BadQuery(ValueError):
    """A query that DuckDB cannot read or run."""


@dataclass(frozen=True)
class TableView:
    """One asset of all datasets, or of all experiments: the folders of its files, whose paths are columns `of` it."""

    asset: tuple[str, ...]
    of: tuple[str, ...]
    folders: tuple[Path, ...]
    partitioned: bool
    without: tuple[str, ...] = ()

    @property
    def select(self) -> str:
        """The rows of all files; a column that a file lacks is null there."""
        inner = "/".join(["([^/]+)"] * len(self.of) + [re.escape(name) for name in self.asset])
        path = quoted(f"/{inner}/([^/]+)[.]parquet$")
        names = [*self.of, *(["trial"] if self.partitioned else [])]
        # A file's name is one constant for all its rows: DuckDB works these out once a file, and skips whole files by them.
        columns = [f"regexp_extract(filename, {path}, {group}) AS {name}" for group, name in enumerate(names, 1)]
        hidden = ", ".join(map(quoted, (*names, "filename", *self.without)))
        patterns = ", ".join(quoted(f"{glob.escape(str(folder))}/*.parquet") for folder in self.folders)
        return (
            f"SELECT {', '.join(columns)}, COLUMNS(lambda name: name NOT IN ({hidden})) "
            f"FROM read_parquet([{patterns}], union_by_name = true, filename = true)"
        )


class Analytics:
    """A view an asset, such as `metrics`, with the columns `dataset`, `experiment` and `trial` where it has them.

    `predictions` leaves out logits and probabilities, which the view `logits` has; `runs` are all runs of MLflow.
    Queries read files below `tables` alone and take a gigabyte of memory.
    """

    def __init__(self, tables: Path, runs: RunTable) -> None:
        self.root = tables.absolute()
        self._runs = runs

    @property
    def names(self) -> list[str]:
        return sorted([*self._views, RUNS])

    def columns(self, view: str) -> list[tuple[str, str]]:
        """Name and type of each column. Raises UnknownName."""
        with self.answer(f'SELECT * FROM "{view}"') as relation:
            return list(zip(relation.columns, map(str, relation.types), strict=True))

    @contextmanager
    def answer(self, query: str) -> Iterator[duckdb.DuckDBPyRelation]:
        """The answer to one SELECT, not read yet. Raises NotASelect, UnknownName and BadQuery, while it is read too."""
        import duckdb

        used: list[str] = []
        with tempfile.TemporaryDirectory(prefix="kestrel-sql-") as spill:
            try:
                with reading_database(
                    [self.root], [self._runs.path], memory_gb=MEMORY_GB, spill=Path(spill)
                ) as database:
                    require_one_select(database, query)
                    used += self._create_views(database, query)
                    yield database.sql(query)
            except duckdb.CatalogException as error:
                raise UnknownName(f"{_first_line(error)}; the views are {', '.join(self.names)}") from error
            except duckdb.BinderException as error:
                raise UnknownName(f"{_first_line(error)}{self._columns_of(used)}") from error
            except duckdb.Error as error:
                raise BadQuery(_first_line(error)) from error

    def _create_views(self, database: duckdb.DuckDBPyConnection, query: str) -> list[str]:
        """Those that the query may name: making a view reads the footers of all its files."""
        used = sorted({word.lower() for word in _WORD.findall(query)} & set(self.names))
        for name in used:
            is_runs = name == RUNS
            select = (
                f"FROM read_parquet({quoted(str(self._runs.refreshed()))})" if is_runs else self._views[name].select
            )
            database.execute(f'CREATE VIEW "{name}" AS {select}')
        return used

    def _columns_of(self, used: Sequence[str]) -> str:
        return "".join(f"; {name} has {', '.join(column for column, _ in self.columns(name))}" for name in used)

    @cached_property
    def _views(self) -> dict[str, TableView]:
        views: dict[str, TableView] = {}
        for name, folder, view in self._found():
            known = views.get(name)
            both = (*known.folders, folder) if known else (folder,)
            views[name] = replace(view, folders=both, partitioned=view.partitioned or bool(known and known.partitioned))
        if predictions := views.get("predictions"):
            views |= {"logits": predictions, "predictions": replace(predictions, without=VECTORS)}
        return views

    def _found(self) -> Iterator[tuple[str, Path, TableView]]:
        """View and folder of each table: `{dataset}/{asset}`, `{dataset}/{experiment}/{asset}` and what is below that."""
        for folder, partitioned in _table_folders(self.root):
            parts = folder.relative_to(self.root).parts
            of = ("dataset", "experiment")[: len(parts) - 1]
            asset = parts[len(of) :]
            name = "__".join(asset).lower()
            yield name, folder, TableView(asset, of, (), partitioned)


def _table_folders(root: Path) -> Iterator[tuple[Path, bool]]:
    """Every folder with current tables, and whether each is of one trial."""
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if name != VERSIONS and not name.startswith("."))
        tables = [name for name in files if name.endswith(".parquet") and not name.startswith(".")]
        if tables and len(Path(folder).relative_to(root).parts) > 1:
            yield Path(folder), all(_TRIAL.fullmatch(name.removesuffix(".parquet")) for name in tables)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip("!")
