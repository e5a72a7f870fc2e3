"""The resize by sparse products: Pillow's pixels, bit for bit, in any window of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from platform_assets.vision.images import resampling
from platform_assets.vision.images.resampling import Interpolation, Window, resized_window

SIDES = st.one_of(st.integers(1, 9), st.integers(10, 70))


def by_pillow(
    image_hwc: NDArray[np.uint8], size: tuple[int, int], window: Window, interpolation: Interpolation
) -> NDArray[np.uint8]:
    resized = Image.fromarray(image_hwc).resize(size, Image.Resampling[interpolation.upper()])
    return np.asarray(resized.crop(window)).transpose(2, 0, 1)


def picture(height: int, width: int, *, harsh: bool = False) -> NDArray[np.uint8]:
    """Noise; the harsh one is black and white, so that cubic weights overshoot and are clipped."""
    pixels = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.where(pixels > 127, 255, 0).astype(np.uint8) if harsh else pixels


@st.composite
def windows(draw: st.DrawFn, size: tuple[int, int]) -> Window:
    left, top = (draw(st.integers(0, side - 1)) for side in size)
    return left, top, draw(st.integers(left + 1, size[0])), draw(st.integers(top + 1, size[1]))


@settings(max_examples=200)
@given(data=st.data(), old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), harsh=st.booleans())
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resized_window__pixels_of_pillow(
    data: st.DataObject, old: tuple[int, int], new: tuple[int, int], harsh: bool, interpolation: Interpolation
) -> None:
    image, window = picture(*old, harsh=harsh), data.draw(windows(new))
    found = resized_window(image, new, window, interpolation)
    np.testing.assert_array_equal(found, by_pillow(image, new, window, interpolation))
    assert found.flags.c_contiguous


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_resized_window__turns_to_down_before_across_where_pillow_does(more: int) -> None:
    """Pillow 13 takes the height first when it loses more than twice what the width loses."""
    image, new = picture(61 + more, 40), (30, 41)
    whole = (0, 0, *new)
    np.testing.assert_array_equal(resized_window(image, new, whole, "bicubic"), by_pillow(image, new, whole, "bicubic"))


@pytest.mark.parametrize("block", [1, 50, 700])
def test_resized_window__same_pixels_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image, new, window = picture(53, 38), (31, 29), (2, 1, 30, 28)
    monkeypatch.setattr(resampling, "_BLOCK", block)
    np.testing.assert_array_equal(
        resized_window(image, new, window, "bicubic"), by_pillow(image, new, window, "bicubic")
    )


def test_resized_window__a_photograph_of_many_megapixels_and_a_thread_of_pixels() -> None:
    for height, width in ((1500, 2000), (2, 3000), (3000, 2)):
        image = picture(height, width)
        found = resized_window(image, (64, 48), (3, 2, 60, 48), "bicubic")
        np.testing.assert_array_equal(found, by_pillow(image, (64, 48), (3, 2, 60, 48), "bicubic"))


def test_resized_window__leaves_its_input_alone() -> None:
    image = picture(20, 30)
    image.flags.writeable = False
    resized_window(image, (10, 10), (0, 0, 10, 10), "bilinear")
    np.testing.assert_array_equal(image, picture(20, 30))
