"""What the header of a plain JPEG says, read without Pillow: at 128 px Pillow's reading takes half as long as the decoding."""

from __future__ import annotations

import struct
from typing import Literal

# JFIF, DQT, DHT, DRI, a comment, Adobe's colours. Exif and XMP turn a picture (APP1), MPF makes it an MPO (APP2).
_NEUTRAL = frozenset({0xFFE0, 0xFFDB, 0xFFC4, 0xFFDD, 0xFFFE, 0xFFEE})
_FRAMES = frozenset({0xFFC0, 0xFFC1, 0xFFC2})  # Huffman: baseline, extended, progressive
_START, _SCAN = b"\xff\xd8", 0xFFDA
_TABLES = 0xFFDB
_SHORTEST = {0xFFE0: 7, 0xFFEE: 7}  # Pillow reads two bytes behind a name of five


def plain_jpeg(data: bytes) -> tuple[int, int, Literal["L", "RGB"]] | None:
    """Width, height and Pillow's mode of a JPEG that is upright, grey or of three colours; None where Pillow must judge.

    A header that is taken here Pillow takes too, unless libjpeg refuses to decode the file (ITU-T T.81, annex B).
    """
    if not data.startswith(_START):
        return None
    at, found = 2, None
    while at + 4 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == _SCAN:
            return found
        end = at + 2 + length
        if length < 2 or end > len(data):
            return None
        if marker in _FRAMES and found is None:
            found = _frame(data[at + 4 : end])
            taken = found is not None
        else:
            taken = _is_neutral(marker, data[at + 4 : end])
        if not taken:
            return None
        at = end
    return None


def _frame(segment: bytes) -> tuple[int, int, Literal["L", "RGB"]] | None:
    if len(segment) < 6:
        return None
    bits, height, width, layers = struct.unpack_from(">BHHB", segment)
    if bits != 8 or layers not in (1, 3) or len(segment) != 6 + 3 * layers:
        return None
    return width, height, "L" if layers == 1 else "RGB"


def _is_neutral(marker: int, segment: bytes) -> bool:
    """Whether Pillow passes over it; of DQT, when it is whole tables of 8 bits."""
    if marker == _TABLES and (len(segment) % 65 or any(number >> 4 for number in segment[::65])):
        return False
    return marker in _NEUTRAL and len(segment) >= _SHORTEST.get(marker, 0)
