"""What a dataset's YAML says about its files: a folder of classes or a table of labels, and where its root is."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from platform_assets.vision.label_map import LabelMap
from platform_assets.vision.splits import Part

RECORD_COLUMNS = (
    *("image_id", "path", "label", "split", "group", "width", "height", "mode", "format", "bytes"),
    *("phash", "pixel_mean", "pixel_std"),
)

ColumnRef = Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(min_length=1)]
"""A column by its name in the header, or by its position from 0."""

FileName = Annotated[str, StringConstraints(min_length=1)]


class MissingSource(ValueError):
    """A source whose folder or package is not on this machine."""


class BadSource(ValueError):
    """A source that is there, but not as its spec says."""


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Location(_Spec):
    """Where the root is: a `path` on disk, or an installed Python `package`; `folder` is a folder inside of it."""

    path: str | None = Field(None, description="folder, absolute or relative to the project")
    package: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$", description="top-level name of an installed package")
    folder: str | None = Field(None, description="folder inside the path or package")

    @model_validator(mode="after")
    def _one_place(self) -> _Location:
        if (self.path is None) == (self.package is None):
            raise ValueError("give exactly one of `path` and `package`")
        if self.folder is not None:
            _require_inside(self.folder)
        return self


def _require_inside(relative: str) -> str:
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{relative!r} leaves the source; name a place inside of it")
    return relative


class FolderSource(_Location):
    """One folder a class: `<class>/...`, or with official parts `train/<class>/...`, `val/...`, `test/...`.

    The parts layout is taken when every top folder bears the name of a part (`valid` and `validation` mean val).
    Hidden files are skipped, and so are files outside of the class folders whose name is not an image's.
    """

    kind: Literal["folder"]
    classes: tuple[str, ...] | None = Field(None, description="the dataset's own class list, in its order")

    @field_validator("classes")
    @classmethod
    def _checked_classes(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if classes is None else LabelMap.from_labels((), classes).names


class TableColumns(_Spec):
    """Which column says what."""

    path: ColumnRef
    label: ColumnRef
    split: ColumnRef | None = None
    group: ColumnRef | None = None


class LabelNames(_Spec):
    """A second table, with a header, that names label ids; its classes are the class list, in order of integer ids."""

    file: FileName
    id: ColumnRef
    name: ColumnRef
    separator: str = Field(",", description="one character, or `whitespace`")

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        return _require_inside(file)

    @field_validator("separator")
    @classmethod
    def _one_character(cls, separator: str) -> str:
        return _checked_separator(separator)


class LabelBins(_Spec):
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


class TableSource(_Location):
    """A text table with one row an image. Paths in it start at the root of the source.

    `files` is one table, or one a part: `{train: train.txt, test: test.txt}`. Labels are taken as they stand, or
    through `label_names` (ids) or `label_bins` (numbers).
    """

    kind: Literal["table"]
    files: FileName | dict[Part, FileName]
    separator: str = Field(",", description="one character, or `whitespace`")
    header: bool
    columns: TableColumns
    extra: dict[str, ColumnRef] = Field(default_factory=dict, description="further columns to keep, by new name")
    label_names: LabelNames | None = None
    label_bins: LabelBins | None = None
    classes: tuple[str, ...] | None = Field(None, description="the dataset's own class list, in its order")

    @field_validator("separator")
    @classmethod
    def _one_character(cls, separator: str) -> str:
        return _checked_separator(separator)

    @field_validator("files")
    @classmethod
    def _files_inside(cls, files: str | dict[Part, str]) -> str | dict[Part, str]:
        names = [files] if isinstance(files, str) else list(files.values())
        if not names:
            raise ValueError("files is empty; name at least one table")
        for name in names:
            _require_inside(name)
        return files

    @field_validator("extra")
    @classmethod
    def _free_names(cls, extra: dict[str, ColumnRef]) -> dict[str, ColumnRef]:
        if taken := sorted(set(extra).intersection(RECORD_COLUMNS)):
            raise ValueError(f"extra columns {taken} have names that the records table uses itself; choose others")
        return extra

    @field_validator("classes")
    @classmethod
    def _checked_classes(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if classes is None else LabelMap.from_labels((), classes).names

    @model_validator(mode="after")
    def _consistent(self) -> TableSource:
        if not self.header and (named := [ref for ref in self.column_refs().values() if isinstance(ref, str)]):
            raise ValueError(f"columns {named} are given by name, but the table has no header; give positions from 0")
        if isinstance(self.files, Mapping) and self.columns.split is not None:
            raise ValueError("files per part and a split column both say the part; give one of them")
        if sum(said is not None for said in (self.label_names, self.label_bins, self.classes)) > 1:
            raise ValueError("label_names, label_bins and classes each define the class list; give one of them")
        return self

    def column_refs(self) -> dict[str, ColumnRef]:
        """Every column that is read, by the name it gets."""
        named = {name: getattr(self.columns, name) for name in TableColumns.model_fields}
        return {name: ref for name, ref in {**named, **self.extra}.items() if ref is not None}

    def tables(self) -> list[tuple[Part | None, str]]:
        """The table files, each with the part its rows belong to when the file says it."""
        return [(None, self.files)] if isinstance(self.files, str) else list(self.files.items())


SourceSpec = Annotated[FolderSource | TableSource, Field(discriminator="kind")]


def _checked_separator(separator: str) -> str:
    if separator != "whitespace" and (len(separator) != 1 or separator in '"\r\n'):
        raise ValueError(f"separator {separator!r} is neither one character nor the word whitespace")
    return separator


def source_root(spec: FolderSource | TableSource, base_dir: Path) -> Path:
    """The folder that all paths of the source start at. A package is located without importing it.

    Raises MissingSource.
    """
    if spec.package is not None:
        place, cure = _package_folder(spec.package), "the installed version of the package has another layout"
    else:
        place = base_dir / Path(spec.path or "").expanduser()
        cure = "put the files there, run `dvc pull` if DVC tracks them, or correct `path`"
    root = place / (spec.folder or "")
    if not root.is_dir():
        raise MissingSource(f"source folder {root} is not there; {cure}")
    return root


def _package_folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingSource(
            f"package {package!r} is not installed; the demonstration sets come with the extra `demo`: "
            "`uv pip install 'kestrel-vision[demo]'`"
        )
    return Path(next(iter(found.submodule_search_locations)))
