"""Records of tiny real images, and what they say after a format wrote and read them."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
from PIL import Image

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.sources import Candidates, Source
from platform_assets.vision.datasets.splits import PARTS
from platform_assets.vision.formats.coco import CocoSource, write_coco
from platform_assets.vision.formats.croissant import CroissantSource, write_croissant
from platform_assets.vision.formats.croissant_metadata import CroissantAbout
from platform_assets.vision.formats.dice import DiceSource, write_dice
from platform_assets.vision.formats.folder import FolderSource, write_folder
from platform_assets.vision.formats.yolo import YoloSource, write_yolo
from platform_tests.vision.pictures import encoded, noise, write

ABOUT = CroissantAbout(
    name="Pictures",
    description="Noise.",
    licence="CC0-1.0",
    citation="Nobody 2026",
    creator="Nobody",
    url="https://example.org/pictures",
    version="1.0.0",
    published=datetime.date(2026, 11, 25),
)
WIDTH, HEIGHT = 20, 14


def turned_jpeg(seed: int, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise(seed), "JPEG", exif=exif)


class Made(NamedTuple):
    """An image for a test: name, bytes and format as records have it."""

    name: str
    data: bytes
    format: str


MADE = (
    Made("a.png", encoded(noise(0)), "PNG"),
    Made("odd name.PNG", encoded(noise(1)), "PNG"),
    Made("deep/er/wrong.jpg", encoded(noise(2)), "PNG"),
    Made("b.jpeg", turned_jpeg(3, 1), "JPEG"),
    Made("turned.jpg", turned_jpeg(4, 6), "JPEG"),
    Made("mirrored", turned_jpeg(5, 7), "JPEG"),
    Made("c.webp", encoded(noise(6), "WEBP", lossless=True), "WEBP"),
    Made("d.gif", encoded(noise(7), "GIF"), "GIF"),
)


class Row(NamedTuple):
    """What must come back: which image, label, part and box."""

    image_id: str
    label: str
    split: str | None
    box: tuple[float, ...] | None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def records_of(root: Path, rows: Sequence[tuple[Made, str, str | None, tuple[float, ...] | None]]) -> pl.DataFrame:
    """Writes the images below the root and gives the records of them."""
    for made in {row[0] for row in rows}:
        write(root, made.name, made.data)
    columns = ("image_id", "path", "label", "split", "format", "box")
    values = [
        (sha256(made.data), made.name, label, split, made.format, box and tuple(map(float, box)))
        for made, label, split, box in rows
    ]
    schema = dict.fromkeys(columns, pl.String) | {"box": pl.Array(pl.Float32, 4)}
    return pl.DataFrame(values, schema=schema, orient="row")


def rows_of(found: Candidates, root: Path) -> list[Row]:
    assert found.rejected.is_empty(), found.rejected.to_dicts()
    boxes = found.rows["box"].to_list() if "box" in found.rows.columns else [None] * found.rows.height
    rows = zip(found.rows["path"], found.rows["label"], found.rows["split"], boxes, strict=True)
    return sorted(
        Row(sha256((root / path).read_bytes()), label, split, None if box is None else tuple(box))
        for path, label, split, box in rows
    )


def rows_expected(records: pl.DataFrame) -> list[Row]:
    columns = records.select("image_id", "label", "split", "box").iter_rows()
    return sorted(Row(*row[:3], None if row[3] is None else tuple(row[3])) for row in columns)


def write_as(kind: str, records: pl.DataFrame, label_map: LabelMap, root: Path, folder: Path) -> None:
    if kind == "croissant":
        write_croissant(records, label_map, root, folder, about=ABOUT)
    else:
        writers = {"folder": write_folder, "yolo": write_yolo, "coco": write_coco, "dice": write_dice}
        writers[kind](records, label_map, root, folder)


def source_of(kind: str, folder: Path, label_map: LabelMap) -> Source:
    """The source that reads what `write_as` wrote."""
    if kind == "folder":
        return FolderSource(kind="folder", path="x", classes=label_map.names)
    if kind == "yolo":
        return YoloSource(kind="yolo", path="x")
    if kind == "dice":
        return DiceSource(kind="dice", path="x")
    if kind == "coco":
        parts = {part for part in PARTS if (folder / f"annotations/instances_{part}.json").exists()}
        spec = {
            "annotations": {part: f"annotations/instances_{part}.json" for part in parts},
            "images": {part: f"images/{part}" for part in parts},
        }
        whole = {"annotations": "annotations/instances.json", "images": "images"}
        return CocoSource.model_validate({"kind": "coco", "path": "x", **(spec if parts else whole)})
    fields = {"path": "path", "label": "label", "split": "split", "box": "box"}
    spec = {"kind": "croissant", "path": "x", "record_set": "records", "fields": fields}
    return CroissantSource.model_validate(spec)
