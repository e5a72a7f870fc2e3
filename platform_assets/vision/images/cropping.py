"""The annotated box of an image, grown by a margin: the part of its picture that a model sees."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from platform_assets.vision.formats.boxes import Box, box_problem

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.vision.recipes.preprocessing import Preprocessing


class MissingBox(ValueError):
    """A model sees the box of an image only, and there is none."""


class BadBox(ValueError):
    """A box that cuts nothing out of its picture."""


@dataclass(frozen=True, slots=True)
class BoxCrop:
    """A box in pixels of the stored file, and the fraction of its longer side that is added on every side."""

    box: Box
    margin: float

    def window(self, width: int, height: int) -> tuple[slice, slice]:
        """Rows and columns of a picture of that size as stored: the grown box to the nearest pixel, clipped.

        Raises BadBox when the box itself lies outside.
        """
        if problem := box_problem(self.box):
            raise BadBox(f"{problem}; correct it in the source")
        x, y, box_width, box_height = self.box
        if x >= width or y >= height or x + box_width <= 0 or y + box_height <= 0:
            raise BadBox(f"box {list(self.box)} misses its picture of {width} x {height}; correct it in the source")
        grown_by = self.margin * max(box_width, box_height)
        return (
            _clipped(y - grown_by, y + box_height + grown_by, height),
            _clipped(x - grown_by, x + box_width + grown_by, width),
        )


def _clipped(start: float, stop: float, size: int) -> slice:
    """Whole pixels, at least one."""
    first = min(max(round(start), 0), size - 1)
    return slice(first, max(first + 1, min(round(stop), size)))


def crop_of(preprocessing: Preprocessing, box: Box | None) -> BoxCrop | None:
    """What is cut out before resizing. Raises MissingBox when the preprocessing crops and there is no box."""
    if preprocessing.box_margin is None:
        return None
    if box is None:
        raise MissingBox(
            "the model sees the box of an image only, and none is given; give x, y, width, height in pixels"
        )
    return BoxCrop(box, preprocessing.box_margin)


def require_boxes(records: pl.DataFrame, experiment: str) -> None:
    """Raises MissingBox unless every record has a box."""
    if "box" not in records.columns:
        lack, first = records.height, records["path"][0]
    else:
        missing = records.filter(records["box"].is_null())
        if missing.is_empty():
            return
        lack, first = missing.height, missing["path"][0]
    raise MissingBox(
        f"experiment {experiment}: crop_to_box needs a box of every image, and {lack} of {records.height} have none, the "
        f"first is {first}; remove crop_to_box, or read the dataset by a source kind that gives boxes"
    )


def boxes_of(records: pl.DataFrame, preprocessing: Preprocessing) -> list[Box] | None:
    """The box of every record, row by row, or None when the preprocessing keeps whole pictures. Raises MissingBox."""
    if preprocessing.box_margin is None:
        return None
    if "box" not in records.columns or records["box"].null_count():
        raise MissingBox("the model sees the box of an image only, and the records lack boxes; materialize them again")
    return [(x, y, width, height) for x, y, width, height in records["box"].to_list()]


def boxes_by_image(records: pl.DataFrame, preprocessing: Preprocessing) -> dict[str, Box] | None:
    """As `boxes_of`, by image id. Raises BadBox when the same bytes have two boxes."""
    boxes = boxes_of(records, preprocessing)
    if boxes is None:
        return None
    found: dict[str, Box] = {}
    for image_id, path, box in zip(records["image_id"], records["path"], boxes, strict=True):
        if found.setdefault(image_id, box) != box:
            raise BadBox(f"{path}: the same bytes (image {image_id[:12]}) have two boxes; keep one in the source")
    return found


def crop_id(image_id: str, box: Box | None) -> str:
    """What names the pixels in a cache: the image id, or with a box the SHA-256 (hex) of image id and box."""
    return image_id if box is None else hashlib.sha256(f"{image_id} {list(box)!r}".encode()).hexdigest()
