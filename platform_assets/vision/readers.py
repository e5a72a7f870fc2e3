"""What a source lists: candidate rows (path, label, split, group, extras) before any image is opened."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import polars as pl

from platform_assets.vision.decoding import RejectReason
from platform_assets.vision.label_map import UnknownLabel, normal_label
from platform_assets.vision.label_tables import label_reader, table_rows
from platform_assets.vision.sources import BadSource, FolderSource, SourceSpec, TableSource
from platform_assets.vision.splits import Part

PART_NAMES: dict[str, Part] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".mpo"})
_LITTER = frozenset({"thumbs.db", "desktop.ini"})

CANDIDATE_SCHEMA = dict.fromkeys(("path", "label", "split", "group"), pl.String)
REJECTED_SCHEMA = dict.fromkeys(("path", "reason", "detail"), pl.String)

Rejected = tuple[str, RejectReason, str]


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Rows that may become records, rows that cannot, and the dataset's own class list when it has one."""

    rows: pl.DataFrame
    rejected: pl.DataFrame
    classes: tuple[str, ...] | None


class _Refused(Exception):
    """Ends the reading of one row: reason and detail."""


def read_candidates(spec: SourceSpec, root: Path) -> Candidates:
    """The rows of a source of either kind, sorted by path. Raises BadSource when the source is not as its spec says."""
    return read_folder(spec, root) if isinstance(spec, FolderSource) else read_table(spec, root)


def read_folder(spec: FolderSource, root: Path) -> Candidates:
    """One row a file below a class folder. The label is the folder's name; folders further down do not matter."""
    files, rejected = _walk(root)
    has_parts = _has_part_folders(files, root)
    rows: list[tuple[str | None, ...]] = []
    for path in files:
        folders = PurePosixPath(path).parts[:-1]
        part = _part(folders[0]) if has_parts and folders else None
        class_folders = folders[1:] if has_parts else folders
        if class_folders:
            label = normal_label(class_folders[0])
            if spec.classes is None or label in spec.classes:
                rows.append((path, label, part, None))
            else:
                rejected.append((path, "unknown_label", f"folder {label!r} is not in classes"))
        elif PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
            rejected.append((path, "missing_label", "the image lies in no class folder"))
    return _candidates(rows, rejected, (), spec.classes)


def read_table(spec: TableSource, root: Path) -> Candidates:
    """One row a line of the table or tables; blank lines do not count."""
    real_root = root.resolve()
    for file in _table_files(spec):
        if refusal := _refusal(real_root, file):
            raise BadSource(f"table {file} of {root}: {refusal[1]}; correct the table's name in the source")
    classes, to_label = label_reader(spec, root)
    rows: list[tuple[str | None, ...]] = []
    rejected: list[Rejected] = []
    for part, file in spec.tables():
        for line, cells in table_rows(root / file, spec.separator, header=spec.header, columns=spec.column_refs()):
            # A row without a path is named by its place in the table.
            path = PurePosixPath(cells["path"]).as_posix() if cells.get("path") else f"{file}:{line}"
            try:
                _require_cells(cells, spec)
                if refusal := _refusal(real_root, path):
                    raise _Refused(*refusal)
                rows.append(_table_row(path, cells, part, spec, to_label))
            except _Refused as refused:
                reason, detail = refused.args
                rejected.append((path, reason, f"{file} line {line}: {detail}"))
            except UnknownLabel as unknown:
                rejected.append((path, "unknown_label", f"{file} line {line}: {unknown}"))
    return _candidates(rows, rejected, tuple(spec.extra), classes)


def source_files(spec: SourceSpec, root: Path) -> list[str]:
    """The files of a source, relative and sorted: its tables, and the images that they list or its folders hold."""
    candidates = read_candidates(spec, root)
    real_root = root.resolve()
    there = {path for path in candidates.rejected["path"] if not _refusal(real_root, path)}
    return sorted(there.union(candidates.rows["path"], _table_files(spec) if isinstance(spec, TableSource) else ()))


def _table_files(spec: TableSource) -> list[str]:
    return [file for _, file in spec.tables()] + ([spec.label_names.file] if spec.label_names else [])


def _candidates(
    rows: Sequence[tuple[str | None, ...]],
    rejected: Sequence[Rejected],
    extra: tuple[str, ...],
    classes: tuple[str, ...] | None,
) -> Candidates:
    schema = CANDIDATE_SCHEMA | dict.fromkeys(extra, pl.String)
    return Candidates(
        rows=pl.DataFrame(rows, schema=schema, orient="row").sort("path", maintain_order=True),
        rejected=pl.DataFrame(rejected, schema=REJECTED_SCHEMA, orient="row").sort("path", maintain_order=True),
        classes=classes,
    )


def _walk(root: Path) -> tuple[list[str], list[Rejected]]:
    """All files but hidden ones and system litter, sorted; links that leave the root and odd files are rejected."""
    files: list[str] = []
    rejected: list[Rejected] = []
    real_root = root.resolve()
    for folder, subfolders, names in os.walk(root):
        here = Path(folder).relative_to(root)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in subfolders:
            if Path(folder, name).is_symlink():
                path = _printable((here / name).as_posix())
                rejected.append((path, "outside_root", "a linked folder is not entered; copy its files here"))
        for name in names:
            path = (here / name).as_posix()
            if name.startswith(".") or name.lower() in _LITTER:
                continue
            if path != (printable := _printable(path)):
                rejected.append((printable, "unreadable_file", "the name is not UTF-8; rename the file or its folder"))
            elif refusal := _refusal(real_root, path):
                rejected.append((path, *refusal))
            else:
                files.append(path)
    return sorted(files), rejected


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _part(name: str) -> Part | None:
    return PART_NAMES.get(name.lower())


def _has_part_folders(files: Sequence[str], root: Path) -> bool:
    """Whether the top folders are parts. Raises BadSource when some are and some are not."""
    depths = Counter[tuple[str, bool]]()
    for path in files:
        top, *below = PurePosixPath(path).parts
        if below:
            depths[top, len(below) > 1] += 1
    tops = {top for top, _ in depths}
    parts = {top for top in tops if _part(top)}
    if not parts or parts == tops:
        return bool(parts)
    # A class may be named `train`: then its images lie directly in it.
    if all(deep for top, deep in depths if top in parts):
        raise BadSource(
            f"{root}: folders {sorted(parts)} are parts with classes in them, {sorted(tops - parts)} are not parts; "
            "move those away, or name the parts train, val and test"
        )
    return False


def _refusal(real_root: Path, path: str) -> tuple[RejectReason, str] | None:
    """Why a relative path is no file of the source, if so; links are followed to where they really lead."""
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


def _require_cells(cells: dict[str, str], spec: TableSource) -> None:
    refs = spec.column_refs()
    if absent := [name for name in refs if name not in cells]:
        said = f"has no column {refs[absent[0]]!r} ({absent[0]}); the separator is {spec.separator!r}"
        raise _Refused("malformed_row", said)
    if not cells["path"]:
        raise _Refused("malformed_row", "the path is empty")
    if not cells["label"]:
        raise _Refused("missing_label", "the label is empty")


def _table_row(
    path: str, cells: dict[str, str], part: Part | None, spec: TableSource, to_label: Callable[[str], str]
) -> tuple[str | None, ...]:
    if split := cells.get("split"):
        part = _part(split)
        if part is None:
            raise _Refused("malformed_row", f"{split!r} is no part; write train, val or test")
    extras = (cells[name] or None for name in spec.extra)
    return (path, to_label(cells["label"]), part, cells.get("group") or None, *extras)
