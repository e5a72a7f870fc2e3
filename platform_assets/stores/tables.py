"""The tables of the assets: one Parquet file per asset partition, read back as frames. SQL over all of them is analytics.py's."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

WHOLE = "all"
VERSIONS = "versions"
_VERSION_KEY = "kestrel.version"
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")


class BadTableName(ValueError):
    """An asset key, partition or version that cannot be a file name."""


class MissingTable(ValueError):
    """The asset's table was never written."""


class DamagedTable(ValueError):
    """A file that should be Parquet and is not."""


class TableConflict(ValueError):
    """A version that is already there with other rows."""


class Tables:
    """Tables under `{root}/{asset key}/{partition or "all"}.parquet`; a file appears whole or not at all.

    A key is the asset key's path, such as ("elpv", "records"). Versions are immutable and lie beside the current table.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def write(self, key: Sequence[str], frame: pl.DataFrame, partition: str | None = None) -> Path:
        """Writes the table of one asset partition in place of an earlier one."""
        if partition == WHOLE:
            raise BadTableName(f"{_name(key)}: {WHOLE!r} names the table without partitions; rename the partition")
        return _write(self._path(key, partition or WHOLE), frame)

    def write_version(self, key: Sequence[str], version: str, frame: pl.DataFrame) -> Path:
        """Keeps an immutable version, makes it the current table. Raises TableConflict for other rows."""
        path = self._version_path(key, version)
        if not path.is_file():
            _write(path, frame, version=version)
        elif not _same(self._load(path, key, None), frame):
            raise TableConflict(
                f"{_name(key)}: version {version} exists with other rows; give the new rows a new version"
            )
        _put(self._path(key, WHOLE), lambda whole: shutil.copyfile(path, whole))
        return path

    def read(
        self,
        key: Sequence[str],
        partition: str | None = None,
        *,
        version: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """The table of one asset partition, or one kept version. Raises MissingTable, DamagedTable.

        Of `columns`, if given, those that the table has: the others are not read from the disk.
        """
        if version is not None:
            return self._load(self._version_path(key, version), key, None, columns)
        return self._load(self._path(key, partition or WHOLE), key, partition, columns)

    def read_all(self, key: Sequence[str]) -> pl.DataFrame:
        """The rows of all partitions in partition order; a column that a partition lacks is null there."""
        import polars as pl

        names = self.partitions(key)
        if not names:
            raise MissingTable(_missing(key, None, self.root))
        frames = [self._load(self._path(key, name), key, name) for name in names]
        return pl.concat(frames, how="diagonal_relaxed")

    def exists(self, key: Sequence[str], partition: str | None = None) -> bool:
        return self._path(key, partition or WHOLE).is_file()

    def partitions(self, key: Sequence[str]) -> list[str]:
        """The partitions that have a table, sorted; `["all"]` for an asset without partitions."""
        return sorted(path.stem for path in self._folder(key).glob("*.parquet"))

    def current_version(self, key: Sequence[str]) -> str | None:
        """The version that the current table is, None when it was written without one. Raises MissingTable."""
        import polars as pl

        path = self._path(key, WHOLE)
        if not path.is_file():
            raise MissingTable(_missing(key, None, path))
        return pl.read_parquet_metadata(path).get(_VERSION_KEY)

    def _load(
        self, path: Path, key: Sequence[str], partition: str | None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        import polars as pl

        # Opened once: given a path, polars opens it twice, and fails when a writer replaces the file in between.
        try:
            with path.open("rb") as file:
                if columns is not None:
                    columns = [name for name in pl.read_parquet_schema(file) if name in columns]
                    file.seek(0)
                return pl.read_parquet(file, columns=columns)
        except FileNotFoundError:
            raise MissingTable(_missing(key, partition, path)) from None
        except pl.exceptions.ComputeError as error:
            cure = f"make it again with: {_command(key, partition)}"
            raise DamagedTable(f"{_name(key)}: {path} is not a whole Parquet file ({error}); {cure}") from error

    def _folder(self, key: Sequence[str]) -> Path:
        if not key or isinstance(key, str) or VERSIONS in key:
            raise BadTableName(f"{key!r}: an asset key is a sequence of names, none of them {VERSIONS!r}")
        return self.root.joinpath(*(_segment(part) for part in key))

    def _path(self, key: Sequence[str], partition: str) -> Path:
        return self._folder(key) / f"{_segment(partition)}.parquet"

    def _version_path(self, key: Sequence[str], version: str) -> Path:
        return self._folder(key) / VERSIONS / f"{_segment(version)}.parquet"


def _write(path: Path, frame: pl.DataFrame, version: str | None = None) -> Path:
    return _put(path, lambda whole: frame.write_parquet(whole, metadata={_VERSION_KEY: version} if version else None))


def _put(path: Path, make: Callable[[Path], object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        whole = Path(folder, "table")
        make(whole)
        whole.replace(path)
    return path


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """A frame as the content of a Parquet file, for what takes files as bytes."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _same(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    return one.schema == other.schema and one.equals(other)


def _segment(text: str) -> str:
    if not _SEGMENT.fullmatch(text):
        raise BadTableName(f"{text!r}: a table name here is letters, digits and . _ = + -, a letter or digit first")
    return text


def _name(key: Sequence[str]) -> str:
    return "/".join(key)


def _command(key: Sequence[str], partition: str | None) -> str:
    partitioned = f" --partition '{partition}'" if partition else ""
    return f"dagster asset materialize --select '{_name(key)}'{partitioned}"


def _missing(key: Sequence[str], partition: str | None, path: Path) -> str:
    where = f"{_name(key)}, partition {partition}" if partition else _name(key)
    return f"{where}: no table at {path}; make it with: {_command(key, partition)}"
