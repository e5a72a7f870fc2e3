"""Tables with one row an image: what YAML says of their columns, the rows that they list, and text tables among them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from platform_assets.vision.datasets.label_map import LabelMap, UnknownLabel
from platform_assets.vision.datasets.sources import (
    ANNOTATION_COLUMNS,
    RECORD_COLUMNS,
    BadSource,
    Candidates,
    ClassList,
    FileName,
    Rejected,
    Source,
    Spec,
    candidates,
    part_named,
    refusal,
    require_inside,
)
from platform_assets.vision.datasets.splits import Part

ColumnRef = Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(min_length=1)]
"""A column by its name in the header, or by its position from 0."""


class TableColumns(Spec):
    """Which column says what."""

    path: ColumnRef
    label: ColumnRef
    split: ColumnRef | None = None
    group: ColumnRef | None = None
    coarse_label: ColumnRef | None = None


class LabelNames(Spec):
    """A second table, with a header, that names label ids; its classes are the class list, in order of integer ids."""

    file: FileName
    id: ColumnRef
    name: ColumnRef
    separator: str = Field(",", description="one character, or `whitespace`")

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        return require_inside(file)

    @field_validator("separator")
    @classmethod
    def _one_character(cls, separator: str) -> str:
        return checked_separator(separator)


class LabelBins(Spec):
    """Names for ranges of a numeric label: `names[i]` holds values above `breaks[i-1]`, up to and with `breaks[i]`."""

    breaks: tuple[float, ...] = Field(min_length=1)
    names: tuple[str, ...]

    @model_validator(mode="after")
    def _fitting(self) -> LabelBins:
        if list(self.breaks) != sorted(set(self.breaks)) or not all(map(math.isfinite, self.breaks)):
            raise ValueError(f"breaks {list(self.breaks)} must be finite and ascending")
        if len(self.names) != len(self.breaks) + 1:
            raise ValueError(
                f"{len(self.breaks)} breaks make {len(self.breaks) + 1} bins, but {len(self.names)} names stand"
            )
        LabelMap.from_labels((), self.names)
        return self


class Table(ClassList, Source):
    """Tables with one row an image, whatever they are written in. Paths in them start at the root of the source.

    `files` is one table, or one a part: `{train: train.txt, test: test.txt}`. Labels are taken as they stand, or
    through `label_names` (ids) or `label_bins` (numbers).
    """

    row_word: ClassVar[str]
    """What a row is called in errors, beside its number."""

    files: FileName | dict[Part, FileName]
    columns: TableColumns
    extra: dict[str, ColumnRef] = Field(default_factory=dict, description="further columns to keep, by new name")
    label_names: LabelNames | None = None
    coarse_names: LabelNames | None = Field(None, description="names of the ids in the coarse_label column")
    label_bins: LabelBins | None = None

    @field_validator("files")
    @classmethod
    def _files_inside(cls, files: str | dict[Part, str]) -> str | dict[Part, str]:
        names = [files] if isinstance(files, str) else list(files.values())
        if not names:
            raise ValueError("files is empty; name at least one table")
        for name in names:
            require_inside(name)
        return files

    @field_validator("extra")
    @classmethod
    def _free_names(cls, extra: dict[str, ColumnRef]) -> dict[str, ColumnRef]:
        if taken := sorted(set(extra).intersection(RECORD_COLUMNS + ANNOTATION_COLUMNS)):
            raise ValueError(f"extra columns {taken} have names that the records table uses itself; choose others")
        return extra

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        if isinstance(self.files, Mapping) and self.columns.split is not None:
            raise ValueError("files per part and a split column both say the part; give one of them")
        if sum(said is not None for said in (self.label_names, self.label_bins, self.classes)) > 1:
            raise ValueError("label_names, label_bins and classes each define the class list; give one of them")
        if self.coarse_names is not None and self.columns.coarse_label is None:
            raise ValueError("coarse_names names the ids of a coarse_label column; say which column that is")
        return self

    @abstractmethod
    def rows(self, file: Path) -> Iterable[tuple[int, dict[str, str]]]:
        """Number and cells, by the names of `column_refs`, of each row. Raises BadSource."""

    def column_refs(self) -> dict[str, ColumnRef]:
        """Every column that is read, by the name it gets."""
        named = {name: getattr(self.columns, name) for name in TableColumns.model_fields}
        return {name: ref for name, ref in {**named, **self.extra}.items() if ref is not None}

    def tables(self) -> list[tuple[Part | None, str]]:
        """The table files, each with the part its rows belong to when the file says it."""
        return [(None, self.files)] if isinstance(self.files, str) else list(self.files.items())

    def own_files(self, root: Path) -> list[str]:
        named = {names.file: None for names in (self.label_names, self.coarse_names) if names}
        return [*(file for _, file in self.tables()), *named]

    def read(self, root: Path) -> Candidates:
        """One row a row of the table or tables; blank ones do not count."""
        from platform_assets.vision.formats.label_tables import label_reader, name_reader

        real_root = root.resolve()
        for file in self.own_files(root):
            if why := refusal(real_root, file):
                raise BadSource(f"table {file} of {root}: {why[1]}; correct the table's name in the source")
        classes, to_label = label_reader(self, root)
        to_coarse = name_reader(self.coarse_names, root)
        rows: list[dict[str, object]] = []
        rejected: list[Rejected] = []
        for part, file in self.tables():
            for number, cells in self.rows(root / file):
                # A row without a path is named by its place in the table.
                path = PurePosixPath(cells["path"]).as_posix() if cells.get("path") else f"{file}:{number}"
                place = f"{file} {self.row_word} {number}"
                try:
                    _require_cells(cells, self)
                    if why := refusal(real_root, path):
                        raise _Refused(*why)
                    rows.append(_table_row(path, cells, part, self, to_label) | _coarse(cells, to_coarse))
                except _Refused as refused:
                    reason, detail = refused.args
                    rejected.append((path, reason, f"{place}: {detail}"))
                except UnknownLabel as unknown:
                    rejected.append((path, "unknown_label", f"{place}: {unknown}"))
        coarse = () if self.columns.coarse_label is None else ("coarse_label",)
        return candidates(rows, rejected, classes=classes, columns=(*coarse, *self.extra))


class TableSource(Table):
    """A delimited text table with one row an image. Paths in it start at the root of the source.

    `files` is one table, or one a part: `{train: train.txt, test: test.txt}`. Labels are taken as they stand, or
    through `label_names` (ids) or `label_bins` (numbers).
    """

    kind: Literal["table"]
    separator: str = Field(",", description="one character, or `whitespace`")
    header: bool

    row_word: ClassVar[str] = "line"

    @field_validator("separator")
    @classmethod
    def _one_character(cls, separator: str) -> str:
        return checked_separator(separator)

    @model_validator(mode="after")
    def _names_need_a_header(self) -> TableSource:
        if not self.header and (named := [ref for ref in self.column_refs().values() if isinstance(ref, str)]):
            raise ValueError(f"columns {named} are given by name, but the table has no header; give positions from 0")
        return self

    def rows(self, file: Path) -> Iterable[tuple[int, dict[str, str]]]:
        from platform_assets.vision.formats.label_tables import table_rows

        return table_rows(file, self.separator, header=self.header, columns=self.column_refs())


class _Refused(Exception):
    """Ends the reading of one row: reason and detail."""


def checked_separator(separator: str) -> str:
    if separator != "whitespace" and (len(separator) != 1 or separator in '"\r\n'):
        raise ValueError(f"separator {separator!r} is neither one character nor the word whitespace")
    return separator


def _require_cells(cells: dict[str, str], spec: Table) -> None:
    refs = spec.column_refs()
    if absent := [name for name in refs if name not in cells]:
        separated = f"; the separator is {spec.separator!r}" if isinstance(spec, TableSource) else ""
        raise _Refused("malformed_row", f"has no column {refs[absent[0]]!r} ({absent[0]}){separated}")
    if not cells["path"]:
        raise _Refused("malformed_row", "the path is empty")
    if not cells["label"]:
        raise _Refused("missing_label", "the label is empty")


def _table_row(
    path: str, cells: dict[str, str], part: Part | None, spec: Table, to_label: Callable[[str], str]
) -> dict[str, object]:
    if split := cells.get("split"):
        part = part_named(split)
        if part is None:
            raise _Refused("malformed_row", f"{split!r} is no part; write train, val or test")
    extras: dict[str, object] = {name: cells[name] or None for name in spec.extra}
    return {
        "path": path,
        "label": to_label(cells["label"]),
        "split": part,
        "group": cells.get("group") or None,
    } | extras


def _coarse(cells: dict[str, str], to_coarse: Callable[[str], str]) -> dict[str, object]:
    return {"coarse_label": to_coarse(cells["coarse_label"])} if cells.get("coarse_label") else {}
