"""A folder of class folders, with or without folders for the official parts."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from platform_assets.vision.formats.copies import CannotWrite, copied_images, copy_image, new_folder
from platform_assets.vision.label_map import LabelMap, normal_label
from platform_assets.vision.sources import (
    BadSource,
    Candidates,
    ClassList,
    Rejected,
    Source,
    candidates,
    part_named,
    refusal,
)
from platform_assets.vision.splits import Part

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
        has_parts = _has_part_folders(files, root)
        # Columns, not rows: a dict an image is most of the memory of 100,000.
        paths: list[str] = []
        labels: list[str] = []
        parts: list[Part | None] = []
        label_of, part_of = cache(normal_label), cache(part_named)
        for path in files:
            folders = path.split("/")[:-1]
            class_folders = folders[1:] if has_parts else folders
            if class_folders:
                label = label_of(class_folders[0])
                if self.classes is None or label in self.classes:
                    paths.append(path)
                    labels.append(label)
                    parts.append(part_of(folders[0]) if has_parts else None)
                else:
                    rejected.append((path, "unknown_label", f"folder {label!r} is not in classes"))
            elif PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES:
                rejected.append((path, "missing_label", "the image lies in no class folder"))
        return candidates({"path": paths, "label": labels, "split": parts}, rejected, classes=self.classes)


def walk(root: Path) -> tuple[list[str], list[Rejected]]:
    """All files but hidden ones and system litter, sorted; links that leave the root and odd files are rejected."""
    files: list[str] = []
    rejected: list[Rejected] = []
    real_root = root.resolve()
    for folder, subfolders, names in os.walk(root):
        here = Path(folder).relative_to(root).as_posix()
        within = "" if here == "." else f"{here}/"
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in subfolders:
            if Path(folder, name).is_symlink():
                path = _printable(f"{within}{name}")
                rejected.append((path, "outside_root", "a linked folder is not entered; copy its files here"))
        for name in names:
            path = f"{within}{name}"
            if name.startswith(".") or name.lower() in _LITTER:
                continue
            if path != (printable := _printable(path)):
                rejected.append((printable, "unreadable_file", "the name is not UTF-8; rename the file or its folder"))
            # The folders down to here are no links.
            elif not _is_regular(f"{folder}/{name}") and (why := refusal(real_root, path)):
                rejected.append((path, *why))
            else:
                files.append(path)
    return sorted(files), rejected


def _is_regular(place: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(place).st_mode)
    except OSError:
        return False


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def _has_part_folders(files: Sequence[str], root: Path) -> bool:
    """Whether the top folders are parts. Raises BadSource when some are and some are not."""
    depths = Counter[tuple[str, bool]]()
    for path in files:
        top, *below = path.split("/")
        if below:
            depths[top, len(below) > 1] += 1
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
