"""Boxes of images: pixels of the stored file, as the records have them, or fractions of the upright picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from platform_assets.vision.formats.headers import Header

Box = tuple[float, float, float, float]
"""x, y, width, height; the origin is the top left corner."""

# Where a point of the stored file, in fractions, lies in the upright picture, by EXIF orientation (Exif 2.32, tag 0x0112).
_UPRIGHT: Mapping[int, Callable[[float, float], tuple[float, float]]] = {
    1: lambda x, y: (x, y),
    2: lambda x, y: (1 - x, y),
    3: lambda x, y: (1 - x, 1 - y),
    4: lambda x, y: (x, 1 - y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (1 - y, x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (y, 1 - x),
}
_OPPOSITE = {6: 8, 8: 6}  # every other orientation undoes itself


def box_problem(box: Sequence[float]) -> str | None:
    """What is wrong with x, y, width, height, if so."""
    if len(box) != 4 or not all(map(math.isfinite, box)):
        return f"box {list(box)} is not four finite numbers x, y, width, height"
    return None if box[2] > 0 and box[3] > 0 else f"box {list(box)} has no area"


def to_fractions(box: Box, header: Header) -> Box:
    """A box in pixels of the stored file as fractions of the upright picture."""
    x, y, width, height = box
    stored = (x / header.width, y / header.height, width / header.width, height / header.height)
    return _turned(stored, header.orientation)


def from_fractions(box: Box, header: Header) -> Box:
    """The way back of `to_fractions`."""
    x, y, width, height = _turned(box, _OPPOSITE.get(header.orientation, header.orientation))
    return x * header.width, y * header.height, width * header.width, height * header.height


def _turned(box: Box, orientation: int) -> Box:
    x, y, width, height = box
    corners = [_UPRIGHT[orientation](*point) for point in ((x, y), (x + width, y + height))]
    (left, right), (top, bottom) = (sorted(values) for values in zip(*corners, strict=True))
    return left, top, right - left, bottom - top
