"""The record sets of a Croissant file as text: inline rows, columns of a local table, or the paths of a file set."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from platform_assets.vision.datasets.sources import BadSource, refusal
from platform_assets.vision.formats.folder import walk
from platform_assets.vision.formats.parquet import text_columns

if TYPE_CHECKING:
    import polars as pl

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|//")
_TABLES = {
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
    "application/x-parquet": "parquet",
    "application/jsonlines": "jsonlines",
}


class RecordSet:
    """One record set of a file that mlcroissant has read; fields are asked for by name or id.

    `folder` is where the file lies; all that it names is below. `where` names file and record set in errors.
    """

    def __init__(self, metadata: Any, record_set: str, folder: Path, file: str) -> None:
        found = [one for one in metadata.record_sets if record_set in (one.id, one.name)]
        if len(found) != 1:
            raise BadSource(f"{file}: record set {record_set!r} is not one of {_ids(metadata.record_sets)}; correct it")
        self._metadata = metadata
        self._node = found[0]
        self._folder = folder
        self.where = f"{file} {self._node.id}"

    def rows(self, fields: Mapping[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
        """Number from 1, and text by the keys of `fields`, of each record; what is null is empty. Raises BadSource."""
        nodes = {key: self._field(name) for key, name in fields.items()}
        if self._node.data:
            rows = [{key: _text(row.get(node.id)) for key, node in nodes.items()} for row in self._node.data]
        elif nodes["path"].source.file_set:
            rows = list(self._file_rows(nodes))
        else:
            rows = list(self._table_rows(nodes))
        yield from enumerate(rows, 1)

    def classes(self, field: str) -> tuple[str, ...] | None:
        """The values, in their order, of the inline field that a field refers to; None when it refers to none."""
        reference = self._field(field).references
        target = reference.field if reference else None
        for record_set in self._metadata.record_sets:
            if target in {node.id for node in record_set.fields} and record_set.data:
                return tuple(_text(row.get(target)) for row in record_set.data)
        return None

    def tables(self) -> list[str]:
        """The local files that it reads, relative to the folder."""
        names = {node.source.file_object for node in self._node.fields if node.source and node.source.file_object}
        return sorted(_local_path(self._distribution(name), self.where) for name in names)

    def _field(self, name: str) -> Any:
        found = [node for node in self._node.fields if name in (node.id, node.name)]
        if len(found) != 1:
            raise BadSource(f"{self.where}: field {name!r} is not one of {_ids(self._node.fields)}; correct fields")
        return found[0]

    def _distribution(self, name: str) -> Any:
        return next(node for node in self._metadata.distribution if node.id == name)

    def _table_rows(self, nodes: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        sources = {node.source.file_object for node in nodes.values()}
        columns = {key: node.source.extract.column for key, node in nodes.items()}
        if len(sources) != 1 or None in sources or None in columns.values():
            raise BadSource(f"{self.where}: fields {_ids(nodes.values())} are not columns of one table; name others")
        frame = self._read_table(self._distribution(sources.pop()), sorted(set(columns.values())))
        named = self._paths_by(nodes["path"])
        for row in frame.iter_rows(named=True):
            cells = {key: _transformed(row[columns[key]] or "", node, self.where) for key, node in nodes.items()}
            yield cells | {"path": named.get(cells["path"], cells["path"])}

    def _paths_by(self, node: Any) -> dict[str, str]:
        """File name to path, for a path field that refers to the names of a file set's files."""
        reference = node.references
        if (
            not reference
            or not reference.file_set
            or getattr(reference.extract.file_property, "name", "") != "filename"
        ):
            return {}
        return {PurePosixPath(path).name: path for path in self._files(self._distribution(reference.file_set))}

    def _file_rows(self, nodes: Mapping[str, Any]) -> Iterator[dict[str, str]]:
        if len({node.source.file_set for node in nodes.values()}) > 1:
            raise BadSource(f"{self.where}: fields {_ids(nodes.values())} are not of one file set; name others")
        for path in self._files(self._distribution(nodes["path"].source.file_set)):
            pure = PurePosixPath(path)
            known = {"fullpath": path, "filepath": path, "filename": pure.name}
            cells = {"path": path}
            for key, node in nodes.items():
                if key != "path":
                    said = getattr(node.source.extract.file_property, "name", None)
                    if said not in known:
                        raise BadSource(
                            f"{self.where}: field {node.id} is the {said} of files, not a name; name another"
                        )
                    cells[key] = _transformed(known[said], node, self.where)
            yield cells

    def _files(self, node: Any) -> list[str]:
        if node.contained_in:
            raise BadSource(f"{self.where}: files {node.id} lie inside {node.contained_in[0]}; unpack them first")
        patterns = node.includes or []
        files, _ = walk(self._folder)
        return [path for path in files if any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)]

    def _read_table(self, node: Any, columns: list[str]) -> pl.DataFrame:
        import polars as pl

        path = _local_path(node, self.where)
        if why := refusal(self._folder.resolve(), path):
            raise BadSource(f"{self.where}: {path}: {why[1]}; put the file there")
        _require_checksum(node, self._folder / path, path)
        kind = next((_TABLES[each] for each in node.encoding_formats if each in _TABLES), None)
        if kind is None:
            raise BadSource(
                f"{self.where}: {path} is {node.encoding_formats}, no table of {sorted(_TABLES)}; convert it"
            )
        if kind == "parquet":
            return text_columns(self._folder / path, columns)
        try:
            if kind == "jsonlines":
                frame = pl.read_ndjson(self._folder / path, infer_schema_length=None)
            else:
                separator = "," if kind == "csv" else "\t"
                frame = pl.read_csv(self._folder / path, separator=separator, infer_schema=False)
            if absent := sorted(set(columns).difference(frame.columns)):
                raise BadSource(f"{path}: columns {absent} are none of {frame.columns}; correct the file or its fields")
            return frame.select(pl.col(columns).cast(pl.String))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise BadSource(
                f"{path}: not a whole table ({str(error).splitlines()[0]}); write the file again"
            ) from error


def require_local(metadata: Any, file: str) -> None:
    """Raises BadSource when a file of the distribution is not on this machine: nothing is fetched."""
    for node in metadata.distribution:
        if getattr(node, "content_url", None) and not node.contained_in:
            _local_path(node, file)


def _local_path(node: Any, where: str) -> str:
    url = node.content_url or ""
    if _REMOTE.match(url):
        raise BadSource(f"{where}: {node.id} is remote ({url}); download it, and give contentUrl the local path")
    pure = PurePosixPath(url)
    if node.contained_in or not pure.parts or pure.is_absolute() or ".." in pure.parts:
        raise BadSource(f"{where}: {node.id}: contentUrl {url!r} is no file below this one; correct it")
    return pure.as_posix()


def _require_checksum(node: Any, place: Path, path: str) -> None:
    for algorithm in ("sha256", "md5"):
        said = getattr(node, algorithm)
        found = hashlib.new(algorithm, place.read_bytes(), usedforsecurity=False).hexdigest()
        if said and said.lower() != found:
            raise BadSource(f"{path}: {algorithm} is said to be {said}, its bytes give {found}; fetch the file again")


def _transformed(value: str, node: Any, where: str) -> str:
    """The value after its regular expressions, as mlcroissant applies them: from the start, the first group."""
    for transform in node.source.transforms:
        if transform.regex is None:
            raise BadSource(f"{where}: field {node.id} has a transform that is no regex; name another field")
        try:
            fits = re.match(transform.regex, value)
        except re.error as error:
            raise BadSource(
                f"{where}: field {node.id}: {transform.regex!r} is no regular expression: {error}"
            ) from None
        value = next((group for group in fits.groups() if group is not None), "") if fits else ""
    return value


def _text(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value).strip()


def _ids(nodes: Any) -> list[str]:
    return sorted(str(node.id) for node in nodes)
