"""A header is taken without Pillow only where Pillow would say the same, or where no pixels can be decoded."""

from __future__ import annotations

import io
from typing import Any

import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from platform_assets.vision.images.jpeg_headers import plain_jpeg
from platform_tests.vision.pictures import encoded, noise


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


PLAIN = encoded(noise(), "JPEG")
XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
TAKEN: list[tuple[str, dict[str, Any]]] = [
    *[("RGB", options) for options in ({}, {"progressive": True}, {"subsampling": 0}, {"comment": b"a cat"})],
    *[("RGB", options) for options in ({"keep_rgb": True}, {"optimize": True}, {"dpi": (300, 300)})],
    *[("L", options) for options in ({}, {"progressive": True}, {"restart_marker_blocks": 2})],
]
LEFT = {
    "cmyk": encoded(noise().convert("CMYK"), "JPEG"),
    "exif": encoded(noise(), "JPEG", exif=oriented(6)),
    "mpo": encoded(noise(), "MPO", save_all=True, append_images=[noise(1)]),
    "xmp": with_segment(PLAIN, 0xE1, XMP),
    "profile": encoded(noise(), "JPEG", icc_profile=b"x" * 200),
    "padding before a marker": PLAIN[:2] + b"\xff" + PLAIN[2:],
    "junk before a marker": PLAIN[:2] + b"junk" + PLAIN[2:],
    "short JFIF": with_segment(PLAIN, 0xE0, b"JFIF\0"),
    "short Adobe": with_segment(PLAIN, 0xEE, b"Adobe"),
    "half a table": with_segment(PLAIN, 0xDB, bytes(30)),
    "two frames": with_segment(PLAIN, 0xC0, bytes([8, 0, 9, 0, 9, 1, 1, 17, 0])),
    "12 bits": with_segment(PLAIN, 0xC1, bytes([12, 0, 9, 0, 9, 1, 1, 17, 0])),
    "arithmetic": with_segment(PLAIN, 0xC9, bytes([8, 0, 9, 0, 9, 1, 1, 17, 0])),
    "png": encoded(noise()),
    "cut": PLAIN[:100],
    "nothing": b"",
}


@pytest.mark.parametrize(("mode", "options"), TAKEN)
def test_plain_jpeg__is_what_pillow_says(mode: str, options: dict[str, Any]) -> None:
    data = encoded(noise(width=31, height=17).convert(mode), "JPEG", **options)
    assert plain_jpeg(data) == (31, 17, mode)


@pytest.mark.parametrize("data", LEFT.values(), ids=list(LEFT))
def test_plain_jpeg__leaves_what_is_odd_to_pillow(data: bytes) -> None:
    assert plain_jpeg(data) is None


BASES = [*(encoded(noise().convert(mode), "JPEG", **options) for mode, options in TAKEN), *list(LEFT.values())[:12]]


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(max_examples=500)
@given(st.sampled_from(BASES), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), st.booleans())
def test_plain_jpeg__mutated_headers_that_decode_are_as_pillow_says(
    data: bytes, changes: list[tuple[float, int]], in_first: bool
) -> None:
    mutated = bytearray(data)
    for where, value in changes:
        mutated[int(where * (min(len(mutated), 180 if in_first else 700) - 1))] = value
    found = plain_jpeg(bytes(mutated))
    if found is None:
        return
    try:
        simplejpeg.decode_jpeg(bytes(mutated), colorspace="RGB", strict=True)
    except ValueError:
        return
    with Image.open(io.BytesIO(mutated)) as image:
        assert (*image.size, image.mode) == found
        assert image.format == "JPEG"
        assert image.getexif().get(0x0112, 1) == 1
