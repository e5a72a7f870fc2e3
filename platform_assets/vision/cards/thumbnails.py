"""Small pictures for pages: which images stand for a class, and how a photograph becomes a data URI of a few kB."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import polars as pl
from PIL import Image

from platform_assets.vision.images.decoding import UnreadableImage, decode_rgb
from platform_assets.vision.images.image_files import ReadBytes

_SIDES_PX = (128, 96, 64, 48)
_QUALITIES = (80, 65, 50)


class LostImage(ValueError):
    """An image of the records that can no longer be read."""


def class_samples(records: pl.DataFrame, *, classes: int, per_class: int) -> pl.DataFrame:
    """Rows of the records: of each of the largest classes the first images by content hash, largest class first.

    So which images are shown depends on neither paths nor row order, and an image more replaces at most one.
    """
    once = records.sort("image_id", "path").unique(["label", "image_id"], keep="first", maintain_order=True)
    ranked = once.with_columns(
        size=pl.len().over("label"), turn=pl.int_range(pl.len()).over("label", order_by=["image_id"])
    )
    largest = ranked.select("label", "size").unique().sort("size", "label", descending=[True, False]).head(classes)
    chosen = ranked.filter(pl.col("turn") < per_class, pl.col("label").is_in(largest["label"].to_list()))
    return chosen.sort("size", "label", "image_id", descending=[True, False, False]).select(records.columns)


def data_uris(paths: Sequence[str], load: ReadBytes, *, most_bytes: int) -> list[str]:
    """A WebP picture (at most 128 pixels a side) for each path, as a data URI; together they keep to `most_bytes`.

    `load` gives the bytes of a path. Raises LostImage.
    """
    share = most_bytes * 3 // 4 // max(len(paths), 1)  # base64 writes 3 bytes as 4 letters
    with ThreadPoolExecutor(thread_name_prefix="thumbnails") as pool:
        return list(pool.map(lambda path: _data_uri(path, load, share), paths))


def _data_uri(path: str, load: ReadBytes, most_bytes: int) -> str:
    try:
        picture = Image.fromarray(decode_rgb(load(path)))
    except (OSError, UnreadableImage) as error:
        raise LostImage(f"{path}: {error}; put the file back, or materialize source and records again") from error
    return f"data:image/webp;base64,{base64.b64encode(_small(picture, most_bytes)).decode()}"


def _small(picture: Image.Image, most_bytes: int) -> bytes:
    """At the best size and quality that fits, else at the lowest."""
    data = b""
    for side in _SIDES_PX:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            picture.save(buffer, "WEBP", quality=quality)
            data = buffer.getvalue()
            if len(data) <= most_bytes:
                return data
    return data
