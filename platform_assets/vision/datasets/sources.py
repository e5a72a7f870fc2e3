"""What every source of images is: a place, a way to list its images, and the columns that it may give."""

from __future__ import annotations

import importlib.util
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.splits import Part

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.vision.images.decoding import RejectReason

RECORD_COLUMNS = (
    *("image_id", "path", "label", "split", "group", "width", "height", "mode", "format", "bytes"),
    *("phash", "pixel_mean", "pixel_std"),
)
ANNOTATION_COLUMNS = ("coarse_label", "hierarchy", "box", "parts", "mask")
"""What a format may know of an image beside its label; `annotation_types` says how each is written."""

PART_NAMES: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

FileName = Annotated[str, StringConstraints(min_length=1)]
Rejected = tuple[str, "RejectReason", str]
"""Path, reason, detail."""


class MissingSource(ValueError):
    """A source whose folder or package is not on this machine."""


class BadSource(ValueError):
    """A source that is there, but not as its format says; the message names file and line."""


@dataclass(frozen=True)
class KeptImages:
    """The id of the image at each path, and what to do where another one is found."""

    id_of: Mapping[str, str]
    cure: str


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a source lists before any image is opened.

    `rows` may become records: path, label, split, group and what else the format knows. `rejected` cannot: path,
    reason, detail. `classes` is the dataset's own class list, in its own order, when it has one. `kept` says which image
    each path must be, where the source knows.
    """

    rows: pl.DataFrame
    rejected: pl.DataFrame
    classes: tuple[str, ...] | None
    kept: KeptImages | None = None


class Spec(BaseModel):
    """A frozen piece of YAML that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Format(Spec, ABC):
    """How the files below a root say which images there are. All paths that it lists are relative to the root."""

    kind: str

    @abstractmethod
    def read(self, root: Path) -> Candidates:
        """The images that the source lists, sorted by path. Raises BadSource when it is not as its format says."""

    def own_files(self, root: Path) -> Sequence[str]:
        """The files that say what the images are: tables, lists, annotations. Their content is part of the version."""
        return ()


class Source(Format):
    """A format, and where its root is: a `path` on disk, or an installed Python `package`; `folder` is inside of it.

    A format is a subclass with a `kind` of its own. Where files must first be fetched or made, it is one of Format.
    """

    path: str | None = Field(None, description="folder, absolute or relative to the project")
    package: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$", description="top-level name of an installed package")
    folder: str | None = Field(None, description="folder inside the path or package")

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.path is None) == (self.package is None):
            raise ValueError("give exactly one of `path` and `package`")
        if self.folder is not None:
            require_inside(self.folder)
        return self


class ClassList(Spec):
    """Mixed into a format that takes a class list from YAML."""

    classes: tuple[str, ...] | None = Field(None, description="the dataset's own class list, in its order")

    @field_validator("classes")
    @classmethod
    def _checked_classes(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if classes is None else LabelMap.from_labels((), classes).names


def annotation_types() -> dict[str, Any]:
    """Polars types of ANNOTATION_COLUMNS.

    `hierarchy` goes from the root down to the parent of the label. `box` is x, y, width, height in pixels of the file as
    it is stored (before EXIF rotation), origin at the top left corner. `parts` are named points in the same pixels.
    `mask` is the path of a mask image, relative to the root.
    """
    import polars as pl

    point = pl.Struct({"name": pl.String, "x": pl.Float32, "y": pl.Float32, "visible": pl.Boolean})
    types = (pl.String, pl.List(pl.String), pl.Array(pl.Float32, 4), pl.List(point), pl.String)
    return dict(zip(ANNOTATION_COLUMNS, types, strict=True))


def candidates(
    rows: Sequence[Mapping[str, object]] | Mapping[str, Sequence[object]],
    rejected: Sequence[Rejected],
    *,
    classes: tuple[str, ...] | None,
    columns: Sequence[str] = (),
) -> Candidates:
    """Rows by column name, or whole columns, sorted by path. `columns` are those beside path, label, split and group.

    A column of ANNOTATION_COLUMNS has its type of `annotation_types`, any other is text. What a row lacks is null.
    """
    import polars as pl

    known = annotation_types()
    basic: dict[str, Any] = dict.fromkeys(("path", "label", "split", "group"), pl.String)
    schema = basic | {name: known.get(name, pl.String) for name in columns}
    data: Any = {**dict.fromkeys(schema), **rows} if isinstance(rows, Mapping) else list(rows)
    return Candidates(
        rows=pl.DataFrame(data, schema=schema).sort("path", maintain_order=True),
        rejected=rejected_frame(rejected).sort("path", maintain_order=True),
        classes=classes,
    )


def rejected_frame(rejected: Sequence[Rejected]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame(rejected, schema=dict.fromkeys(("path", "reason", "detail"), pl.String), orient="row")


def source_files(source: Format, root: Path) -> list[str]:
    """The files of a source, relative and sorted: its own, and the images that they list or its folders hold."""
    found = source.read(root)
    real_root = root.resolve()
    there = {path for path in found.rejected["path"] if not refusal(real_root, path)}
    return sorted(there.union(found.rows["path"], source.own_files(root)))


def part_named(name: str) -> Part | None:
    return PART_NAMES.get(name.lower())


def require_inside(relative: str) -> str:
    """The path as it is. Raises ValueError when it leaves the source."""
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{relative!r} leaves the source; name a place inside of it")
    return relative


def refusal(real_root: Path, path: str) -> tuple[RejectReason, str] | None:
    """Why a relative path is no file of the source, if so; links are followed to where they really lead.

    `real_root` is the root with its links resolved.
    """
    if _is_plain_file(real_root, path):
        return None
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path:
        return "outside_root", "only relative paths without `..` are read"
    try:
        target = (real_root / pure).resolve(strict=True)
        regular = stat.S_ISREG(target.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        hint = "; write / instead of the backslash" if "\\" in path else ""
        return "missing_file", f"no such file below {real_root}{hint}"
    except (OSError, RuntimeError) as error:  # no permission, a link to itself, a name too long
        return "unreadable_file", str(error)
    if not target.is_relative_to(real_root):
        return "outside_root", f"links to {target}, outside of the source; copy the file into it"
    return None if regular else ("not_an_image", "not a regular file")


def _is_plain_file(real_root: Path, path: str) -> bool:
    """Whether the path leads over folders to a regular file, with no link on the way: an eighth of the time of resolving."""
    at, names = str(real_root), path.split("/")
    if "" in names or "." in names or ".." in names or "\0" in path:
        return False
    try:
        for name in names[:-1]:
            at = f"{at}/{name}"
            if not stat.S_ISDIR(os.lstat(at).st_mode):
                return False
        return stat.S_ISREG(os.lstat(f"{at}/{names[-1]}").st_mode)
    except (OSError, ValueError):
        return False


def source_root(source: Format, base_dir: Path) -> Path:
    """The folder that all paths of the source start at. A package is located without importing it.

    Raises MissingSource, also for a source that `stores` must fetch or make first.
    """
    if not isinstance(source, Source):
        raise MissingSource(f"{type(source).__name__} has no folder until its files are fetched; ask its store for it")
    if source.package is not None:
        place, cure = _package_folder(source.package), "the installed version of the package has another layout"
    else:
        place = base_dir / Path(source.path or "").expanduser()
        cure = "put the files there, run `dvc pull` if DVC tracks them, or correct `path`"
    root = place / (source.folder or "")
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
