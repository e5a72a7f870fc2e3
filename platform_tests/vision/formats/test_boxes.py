"""Boxes of pictures that are stored turned: the same pixels, whichever way the box is said."""

from __future__ import annotations

import contextlib
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from platform_assets.vision.formats.boxes import box_problem, from_fractions, to_fractions
from platform_assets.vision.formats.headers import Header, UnreadableHeader, read_header
from platform_assets.vision.images.decoding import decode_rgb
from platform_tests.vision.pictures import encoded, write


@pytest.mark.parametrize("orientation", range(1, 9))
def test_to_fractions__lands_on_the_same_pixels_of_the_upright_picture(orientation: int, tmp_path: Path) -> None:
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[3:9, 10:20] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), "PNG", exif=exif)
    header = read_header(write(tmp_path, "a.png", data))
    assert header == Header(40, 30, orientation)
    upright = decode_rgb(data)[:, :, 0] > 0
    rows, columns = np.nonzero(upright)
    height, width = upright.shape
    expected = (columns.min() / width, rows.min() / height, np.ptp(columns) + 1, np.ptp(rows) + 1)
    expected = (*expected[:2], expected[2] / width, expected[3] / height)
    assert to_fractions((10, 3, 10, 6), header) == pytest.approx(expected)


@given(st.tuples(*[st.floats(0, 9)] * 2, *[st.floats(0.01, 9)] * 2), st.integers(1, 8))
def test_from_fractions__undoes_to_fractions(box: tuple[float, float, float, float], orientation: int) -> None:
    header = Header(640, 480, orientation)
    assert from_fractions(to_fractions(box, header), header) == pytest.approx(box, abs=1e-6)


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, math.nan, 3), (1, 2, math.inf, 3), (1, 2, 0, 3), (1, 2, 3, -1)])
def test_box_problem__says_what_is_wrong(box: tuple[float, ...]) -> None:
    assert box_problem(box)
    assert box_problem((-1.5, 0, 3, 0.5)) is None


def test_read_header__is_no_image(tmp_path: Path) -> None:
    with pytest.raises(UnreadableHeader, match="cannot identify image file"):
        read_header(write(tmp_path, "a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"))


@given(
    st.binary(max_size=64), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"BM", b""])
)
def test_read_header__any_bytes_are_read_or_refused(tail: bytes, start: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(start + tail)
        with contextlib.suppress(UnreadableHeader):
            assert read_header(Path(file.name)).width > 0
