"""A folder of class folders, with or without folders for the official parts."""

from __future__ import annotations

import os
from collections.abc import Set
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from platform_assets.vision.datasets.label_map import LabelMap, normal_label
from platform_assets.vision.datasets.sources import (
    BadSource,
    Candidates,
    ClassList,
    Rejected,
    Source,
    candidates,
    part_named,
    refusal,
)
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.formats.copies import CannotWrite, copied_images, copy_image, new_folder

if TYPE_CHECKING:
    import polars as pl

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".mpo"})
_LITTER = frozenset({"thumbs.db", "desktop.ini"})
_LONGEST_NAME_BYTES = 255
_CLASSES_FILE = "classes.txt"


class FolderSource(ClassList, Source):
    """One folder a class: `<class>/...`, or with official parts `train/<class>/...`, `val/...`, `test/...`.

    The parts layout is taken when every top folder bears the name of a part (`valid` and `validation` mean val).
    Hidden files are skipped, and so are files outside of the class folders whose name is not an image's.
    """

    kind: Literal["folder"]

    def read(self, root: Path) -> Candidates:
        """One row a file below a class folder. The label is the folder's name; folders further down do not matter."""
        files, rejected = walk(root)
        has_parts = _has_part_folders({_folder(path) for path in files}, root)
        # Columns, not rows: a dict an image is most of the memory of 100,000.
        paths: list[str] = []
        labels: list[str] = []
        parts: list[Part | None] = []
        read_folder = cache(partial(_label_and_part, has_parts))
        for path in files:
            label, part = read_folder(_folder(path))
            if label is not None:
                if self.classes is None or label in self.classes:
                    paths.append(path)
                    labels.append(label)
                    parts.append(part)
                else:
                    rejected.append((path, "unknown_label", f"folder {label!r} is not in classes"))
            elif PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
                rejected.append((path, "missing_label", "the image lies in no class folder"))
        return candidates({"path": paths, "label": labels, "split": parts}, rejected, classes=self.classes)


def walk(root: Path) -> tuple[list[str], list[Rejected]]:
    """All files but hidden ones and system litter, sorted; links that leave the root and odd files are rejected."""
    files: list[str] = []
    rejected: list[Rejected] = []
    real_root, waiting = root.resolve(), [""]
    while waiting:
        within = waiting.pop()
        for entry in _listed(root, within, rejected):
            name, path = entry.name, f"{within}{entry.name}"
            if name.startswith("."):
                continue
            if _is_folder(entry):
                if entry.is_symlink():
                    why = "a linked folder is not entered; copy its files here"
                    rejected.append((_printable(path), "outside_root", why))
                else:
                    waiting.append(f"{path}/")
            elif name.lower() in _LITTER:
                continue
            elif path != (printable := _printable(path)):
                rejected.append((printable, "unreadable_file", "the name is not UTF-8; rename the file or its folder"))
            # The folders down to here are no links.
            elif not entry.is_file(follow_symlinks=False) and (refused := refusal(real_root, path)):
                rejected.append((path, *refused))
            else:
                files.append(path)
    return sorted(files), rejected


def _listed(root: Path, within: str, rejected: list[Rejected]) -> list[os.DirEntry[str]]:
    """What lies in a folder; one that cannot be listed is rejected."""
    # What kind an entry is the listing says; a call of lstat a file would take twice as long as the rest.
    try:
        with os.scandir(root / within) as entries:
            return list(entries)
    except OSError as error:
        rejected.append((_printable(within.rstrip("/") or "."), "unreadable_file", str(error)))
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also where a link leads to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _printable(path: str) -> str:
    return path if path.isascii() else path.encode("utf-8", "backslashreplace").decode("utf-8")


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _label_and_part(has_parts: bool, folder: str) -> tuple[str | None, Part | None]:
    """What the folders of a file say; no label where it lies in no class folder."""
    top, *below = folder.split("/")
    label = (below[0] if below else "") if has_parts else top
    return normal_label(label) if label else None, part_named(top) if has_parts else None


def _has_part_folders(folders: Set[str], root: Path) -> bool:
    """Whether the top folders are parts. Raises BadSource when some are and some are not."""
    depths = {(folder.split("/")[0], "/" in folder) for folder in folders if folder}
    tops = {top for top, _ in depths}
    parts = {top for top in tops if part_named(top)}
    if not parts or parts == tops:
        return bool(parts)
    # A class may be named `train`: then its images lie directly in it.
    if all(deep for top, deep in depths if top in parts):
        raise BadSource(
            f"{root}: folders {sorted(parts)} are parts with classes in them, {sorted(tops - parts)} are not parts; "
            "move those away, or name the parts train, val and test"
        )
    return False


def write_folder(records: pl.DataFrame, label_map: LabelMap, root: Path, folder: Path) -> None:
    """ImageFolder (torchvision): `<part>/<class>/`, or `<class>/` where images have no part; classes.txt has the order.

    torchvision numbers classes by the code points of their names, whatever classes.txt says.
    Raises CannotWrite before anything is written.
    """
    images = copied_images(records, label_map, "ImageFolder")
    _require_folder_names(label_map)
    if images[0].split is None and all(part_named(image.label) for image in images):
        raise CannotWrite(
            f"ImageFolder: classes {list(label_map.names)} would be read as parts; rename one, or assign splits first"
        )
    with new_folder(folder) as fresh:
        for image in images:
            copy_image(image, root, fresh / image.part_folder / image.label / image.name)
        (fresh / _CLASSES_FILE).write_text("".join(f"{name}\n" for name in label_map.names), encoding="utf-8")


def _require_folder_names(label_map: LabelMap) -> None:
    """Raises CannotWrite for class names that no folder can have, or not on every system."""
    alike: dict[str, str] = {}
    for name in label_map.names:
        if "/" in name or "\\" in name or not name.isprintable():
            raise CannotWrite(f"ImageFolder: class {name!r} has a slash or a control character; rename it")
        if name.startswith(".") or name.casefold() == _CLASSES_FILE:
            raise CannotWrite(f"ImageFolder: class {name!r} would be a hidden folder or the list of classes; rename it")
        if len(name.encode()) > _LONGEST_NAME_BYTES:
            raise CannotWrite(f"ImageFolder: class {name[:20]!r}... is too long for a folder; shorten it to 255 bytes")
        if (other := alike.setdefault(name.casefold(), name)) != name:
            raise CannotWrite(
                f"ImageFolder: classes {other!r} and {name!r} are one folder on macOS and Windows; rename one"
            )
