"""What an image file says of itself before it is decoded: size and orientation; and the endings that fit its format."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = {
    **{"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "MPO": (".jpg", ".jpeg", ".mpo"), "PNG": (".png",)},
    **{"GIF": (".gif",), "BMP": (".bmp",), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",)},
}
"""File name endings of each format that records know; a copy keeps its own if it fits, else gets the first."""


_OPENED = [name for name in SUFFIXES if name != "MPO"]  # a camera's MPO opens as JPEG


class UnreadableHeader(ValueError):
    """A file that does not start as an image; without its size a box in fractions says nothing."""


@dataclass(frozen=True)
class Header:
    """Size in pixels of the file as it is stored, and its EXIF orientation, 1 to 8."""

    width: int
    height: int
    orientation: int


def read_header(place: Path) -> Header:
    """Raises UnreadableHeader."""
    from PIL import Image

    Image.init()  # without it Pillow knows the names of common formats alone
    try:
        with Image.open(place, formats=_OPENED) as image:
            orientation = image.getexif().get(0x0112, 1)
            return Header(*image.size, orientation if orientation in range(1, 9) else 1)
    except (OSError, SyntaxError, ValueError, TypeError, OverflowError, struct.error, MemoryError) as error:
        raise UnreadableHeader(str(error) or repr(error)) from error
    except Image.DecompressionBombError as error:
        raise UnreadableHeader(str(error)) from error
