"""Which format an unpacked folder has, told by marker files and the names of folders; no image is opened."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from platform_assets.vision.datasets.sources import BadSource, part_named
from platform_assets.vision.formats.folder import IMAGE_SUFFIXES

_LOOKED_FOR = {
    "cub": "images.txt, image_class_labels.txt and classes.txt",
    "nabirds": "those of cub and hierarchy.txt",
    "yolo": "a .yaml file with `names:` and `train:` or `val:`",
    "dice": "annotations_classification.json with classes",
    "coco": "a .json file (here, in annotations/ or in the folder of a part) with images, annotations and categories",
    "folder": "at least two class folders with images, or folders named train, val or test with such in them",
}
_NUMBERED_LISTS = ("images.txt", "image_class_labels.txt", "classes.txt")
_DICE_FILE = "annotations_classification.json"
_NOT_CLASSES = frozenset({"images", "imgs", "jpegimages", "labels", "annotations", "masks", "segmentations", "data"})
_NOT_DATA = frozenset({"__MACOSX"})
_YAML_KEYS = (re.compile(rb"^names\s*:", re.MULTILINE), re.compile(rb"^(?:train|val)\s*:", re.MULTILINE))
_FIRST_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.){0,1000}")')
_YAML_BYTES = 1 << 20


class UnknownFormat(BadSource):
    """A folder that looks like no format, or like several."""


def detect(root: Path) -> dict[str, Any]:
    """The spec of the folder's source without its path; `folder` is the one folder around it all, where there is one.

    Raises UnknownFormat with what was looked for and what was found.
    """
    here = root
    found = _formats(root)
    folders, files = _entries(root)
    if not found and len(folders) == 1 and not any(_is_image(name) for name in files):
        here = root / folders[0]
        found = [{**spec, "folder": folders[0]} for spec in _formats(here)]
    if len(found) == 1:
        return found[0]
    if found:
        kinds = ", ".join(f"{spec['kind']} ({_LOOKED_FOR[spec['kind']]})" for spec in found)
        raise UnknownFormat(f"{here}: looks like several formats: {kinds}; say which by `format: {{kind: ...}}`")
    sought = "; ".join(f"{kind}: {marker}" for kind, marker in _LOOKED_FOR.items())
    raise UnknownFormat(
        f"{here}: no known format. Looked for {sought}. Found {_listing(here)}. Say what it is by `format: {{kind: ...}}`"
    )


def _formats(root: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if all((root / name).is_file() for name in _NUMBERED_LISTS):
        found.append({"kind": "nabirds" if (root / "hierarchy.txt").is_file() else "cub"})
    found += [{"kind": "yolo", "file": name} for name in _yolo_files(root)]
    is_dice = (root / _DICE_FILE).is_file() and _holds(root / _DICE_FILE, b'"classes"')
    if is_dice:
        found.append({"kind": "dice"})
    if coco := _coco_files(root, passed_over=_DICE_FILE if is_dice else None):
        found.append(_coco_spec(root, coco))
    if _is_image_folder(root):
        found.append({"kind": "folder"})
    return found


def _yolo_files(root: Path) -> Iterator[str]:
    for name in _entries(root)[1]:
        if name.endswith((".yaml", ".yml")):
            with (root / name).open("rb") as file:
                text = file.read(_YAML_BYTES)
            if all(key.search(text) for key in _YAML_KEYS):
                yield name


def _coco_files(root: Path, passed_over: str | None) -> list[str]:
    """The object annotations, relative and sorted; `instances_*` alone where key points or others lie beside them."""
    folders = ["", *(name for name in _entries(root)[0] if name == "annotations" or part_named(name))]
    names = [f"{folder}/{name}".lstrip("/") for folder in folders for name in _entries(root / folder)[1]]
    keys = (b'"images"', b'"annotations"', b'"categories"')
    tables = [
        n for n in names if n.endswith(".json") and n != passed_over and all(_holds(root / n, key) for key in keys)
    ]
    return [name for name in tables if Path(name).name.startswith("instances")] or tables


def _coco_spec(root: Path, files: list[str]) -> dict[str, Any]:
    if len(files) == 1:
        return {"kind": "coco", "annotations": files[0], **_given("images", _image_folder(root, files[0]))}
    by_part = {_part_of(file): file for file in files}
    if None in by_part or len(by_part) < len(files):
        raise UnknownFormat(f"{root}: which part each of {files} is cannot be told from its name; give `annotations`")
    images = {part: _image_folder(root, file) for part, file in by_part.items()}
    one = set(images.values())
    return {"kind": "coco", "annotations": by_part, **_given("images", images if len(one) > 1 else one.pop())}


def _given(name: str, value: Any) -> dict[str, Any]:
    return {name: value} if value else {}


def _part_of(file: str) -> str | None:
    """The part that a file's name or its folder's says: `annotations/instances_train2017.json`."""
    words = re.split(r"[^a-z]+", file.lower())
    return next((part for word in reversed(words) if (part := part_named(word))), None)


def _image_folder(root: Path, file: str) -> str:
    """The folder that the file names of a COCO file start at: where its first image is."""
    with (root / file).open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        first = _FIRST_FILE_NAME.search(text)
        name = json.loads(first[1]) if first else ""
    inner = [f"{folder}/{name}" for folder in ("images", "data") for name in _entries(root / folder)[0]]
    places = ["", Path(file).parent.as_posix().removeprefix("."), *_entries(root)[0], *inner]
    hits = [place for place in places if name and (root / place / name).is_file()]
    if not hits:
        raise UnknownFormat(f"{root}: {file} lists {name!r}, which lies in none of its folders; give `images`")
    part = _part_of(file)
    return next((place for place in hits if part and _part_of(place) == part), hits[0])


def _is_image_folder(root: Path) -> bool:
    folders = _entries(root)[0]
    parts = [name for name in folders if part_named(name)]
    if parts and parts == folders:
        inner = [root / part / name for part in parts for name in _entries(root / part)[0]]
        return bool(_class_folders(inner))
    return len(_class_folders([root / name for name in folders])) > 1


def _class_folders(folders: list[Path]) -> list[Path]:
    if any(folder.name.lower() in _NOT_CLASSES for folder in folders):
        return []
    return [folder for folder in folders if any(_is_image(name) for _, _, names in os.walk(folder) for name in names)]


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Folders and regular files that are not hidden, sorted; nothing for a folder that is not there."""
    if not folder.is_dir():
        return [], []
    with os.scandir(folder) as scanned:
        shown = [entry for entry in scanned if not entry.name.startswith(".") and entry.name not in _NOT_DATA]
        folders = sorted(entry.name for entry in shown if entry.is_dir(follow_symlinks=False))
        return folders, sorted(entry.name for entry in shown if entry.is_file(follow_symlinks=False))


def _holds(file: Path, text: bytes) -> bool:
    if not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(text) >= 0


def _listing(folder: Path, most: int = 10) -> str:
    folders, files = _entries(folder)
    names = [f"{name}/" for name in folders] + files
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more
