"""Images copied into a folder that another program reads: named by content, all there or none."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from platform_assets.vision.datasets.label_map import LabelMap, UnknownLabel
from platform_assets.vision.datasets.sources import refusal
from platform_assets.vision.datasets.splits import PARTS, Part
from platform_assets.vision.formats.boxes import Box
from platform_assets.vision.formats.headers import SUFFIXES, Header, UnreadableHeader, read_header

if TYPE_CHECKING:
    import polars as pl


class CannotWrite(ValueError):
    """Records that a format cannot hold, or a folder that is in use; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class CopiedImage:
    """One image to write. `box` is in pixels of the stored file; `name` is unlike that of any other image."""

    image_id: str
    path: str
    label: str
    split: Part | None
    box: Box | None
    coarse_label: str | None
    name: str

    @property
    def part_folder(self) -> str:
        """Its folder below the images: `train`, or nothing when images have no part."""
        return self.split or ""


def copied_images(records: pl.DataFrame, label_map: LabelMap, what: str) -> list[CopiedImage]:
    """The records in order of part and image id. `what` names the format in errors.

    Raises CannotWrite for labels outside of the map, for parts that only some have, and for an image that stands
    twice in a part.
    """
    images = sorted((_copied(row, what) for row in records.iter_rows(named=True)), key=_in_order)
    if not images:
        raise CannotWrite(f"{what}: there are no records to write; make the records first")
    for image in images:
        try:
            label_map.index(image.label)
        except UnknownLabel as unknown:
            raise CannotWrite(f"{what}: {image.path}: {unknown}; use the label map of these records") from None
    without = [image.path for image in images if image.split is None]
    if 0 < len(without) < len(images):
        raise CannotWrite(
            f"{what}: {len(without)} of {len(images)} images have no part (e.g. {without[0]}); assign splits first"
        )
    repeated = Counter((image.split, image.image_id) for image in images).most_common(1)[0]
    if repeated[1] > 1:
        raise CannotWrite(f"{what}: image {repeated[0][1][:12]} stands {repeated[1]} times in a part; keep one of them")
    return images


def present_parts(images: Sequence[CopiedImage]) -> list[Part]:
    return [part for part in PARTS if any(image.split == part for image in images)]


def coarse_labels(images: Sequence[CopiedImage], what: str) -> dict[str, str]:
    """Label to coarse label. Raises CannotWrite when a label has several."""
    above: dict[str, set[str]] = defaultdict(set)
    for image in images:
        if image.coarse_label is not None:
            above[image.label].add(image.coarse_label)
    for label, names in sorted(above.items()):
        if len(names) > 1:
            raise CannotWrite(
                f"{what}: label {label!r} has coarse labels {sorted(names)}; the format holds one a label"
            )
    return {label: names.pop() for label, names in above.items()}


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, beside the target; it becomes the target when all went well. Raises CannotWrite."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise CannotWrite(f"{folder} is there and not an empty folder; name a new one, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        fresh = Path(scratch, "fresh")
        fresh.mkdir()
        yield fresh
        fresh.replace(folder)


def copy_image(image: CopiedImage, root: Path, target: Path) -> None:
    """Copies the bytes, if they are still those of the records. Raises CannotWrite."""
    if why := refusal(root.resolve(), image.path):
        raise CannotWrite(f"{image.path}: {why[1]}; materialize the records again")
    data = (root / image.path).read_bytes()
    if (sha256 := hashlib.sha256(data).hexdigest()) != image.image_id:
        raise CannotWrite(
            f"{image.path}: its bytes give {sha256[:12]}, the records say {image.image_id[:12]}; "
            "materialize the records again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def stored_header(image: CopiedImage, root: Path) -> Header:
    """Size and orientation of the file; the records have the size of the upright picture. Raises CannotWrite."""
    try:
        return read_header(root / image.path)
    except UnreadableHeader as error:
        raise CannotWrite(f"{image.path}: {error}; materialize the records again") from error


def write_json(place: Path, document: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8")


def _copied(row: dict[str, Any], what: str) -> CopiedImage:
    suffixes = SUFFIXES.get(row["format"])
    if suffixes is None:
        raise CannotWrite(f"{what}: {row['path']}: format {row['format']!r} is not one of {sorted(SUFFIXES)}")
    own = PurePosixPath(row["path"]).suffix.lower()
    box = row.get("box")
    return CopiedImage(
        image_id=row["image_id"],
        path=row["path"],
        label=row["label"],
        split=row["split"],
        box=None if box is None else tuple(box),
        coarse_label=row.get("coarse_label"),
        name=row["image_id"] + (own if own in suffixes else suffixes[0]),
    )


def _in_order(image: CopiedImage) -> tuple[int, str, str]:
    return PARTS.index(image.split) if image.split else len(PARTS), image.image_id, image.path
