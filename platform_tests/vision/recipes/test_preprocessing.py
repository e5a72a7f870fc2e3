"""Preprocessing as a record, and the pixels it gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from platform_assets.vision.recipes.preprocessing import Preprocessing, to_pixels

HALF = (0.5, 0.5, 0.5)
SQUASH = Preprocessing(image_size_px=32, resize="squash", interpolation="bilinear", mean=HALF, std=HALF)
TIMM = Preprocessing(
    image_size_px=224, resize="shorter_side", crop_fraction=0.875, interpolation="bicubic", mean=HALF, std=HALF
)


def _photograph(height: int, width: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(3).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _changed(**values: object) -> Preprocessing:
    return Preprocessing.model_validate({**TIMM.model_dump(), **values})


def test_preprocessing_id__is_pinned() -> None:
    # Another id for the same record would throw away every cached embedding.
    assert TIMM.preprocessing_id == "160db1b27c2ed9c4"


def test_preprocessing_id__same_for_the_same_values_however_written() -> None:
    again = Preprocessing.model_validate_json(TIMM.model_dump_json())
    assert again.preprocessing_id == TIMM.preprocessing_id
    assert _changed(std=[0.50, 0.5, 0.5]).preprocessing_id == TIMM.preprocessing_id


@pytest.mark.parametrize(
    "change",
    [
        {"image_size_px": 240},
        {"crop_fraction": 0.9},
        {"resize": "squash", "crop_fraction": 1.0},
        {"interpolation": "bilinear"},
        {"mean": (0.485, 0.456, 0.406)},
        {"std": (0.229, 0.224, 0.225)},
    ],
)
def test_preprocessing_id__changes_with_every_field(change: dict[str, object]) -> None:
    assert _changed(**change).preprocessing_id != TIMM.preprocessing_id
    normalization = change.keys() <= {"mean", "std"}
    assert (_changed(**change).pixels_id == TIMM.pixels_id) == normalization


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"std": (0.5, 0.0, 0.5)}, "std"),
        ({"mean": (float("nan"), 0.5, 0.5)}, "mean"),
        ({"image_size_px": 0}, "image_size_px"),
        ({"crop_fraction": 1.5}, "crop_fraction"),
        ({"resize": "squash"}, "crop_fraction: 0.875 is for resize 'shorter_side' only"),
        ({"colour": "bgr"}, "colour"),
    ],
)
def test_preprocessing__refuses_what_makes_no_sense(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        _changed(**change)


@settings(max_examples=40)
@given(height=st.integers(1, 300), width=st.integers(1, 300), crop_fraction=st.floats(0.5, 1.0))
def test_to_pixels__any_picture_gives_the_size_asked_for(height: int, width: int, crop_fraction: float) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    for preprocessing in (SQUASH, _changed(image_size_px=32, crop_fraction=crop_fraction)):
        pixels = to_pixels(image, preprocessing)
        assert pixels.shape == (3, 32, 32)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous


@pytest.mark.parametrize(("image_size_px", "crop_fraction"), [(224, 0.875), (240, 0.882), (260, 0.89), (64, 1.0)])
@pytest.mark.parametrize(("height", "width"), [(427, 640), (640, 427), (300, 300), (100, 131)])
def test_to_pixels__shorter_side_gives_the_pixels_of_timm(
    height: int, width: int, image_size_px: int, crop_fraction: float
) -> None:
    from timm.data import create_transform

    image = _photograph(height, width)
    transform = create_transform(image_size_px, interpolation="bicubic", crop_pct=crop_fraction, normalize=False)
    preprocessing = _changed(image_size_px=image_size_px, crop_fraction=crop_fraction)
    np.testing.assert_array_equal(to_pixels(image, preprocessing), transform(Image.fromarray(image)).numpy())


def test_to_pixels__squash_keeps_the_whole_picture_and_shorter_side_cuts_the_ends() -> None:
    image = np.zeros((64, 192, 3), np.uint8)
    image[:, :32] = image[:, -32:] = 255
    assert to_pixels(image, SQUASH)[:, :, 0].min() == 255
    cut = _changed(image_size_px=32, crop_fraction=1.0)
    assert to_pixels(image, cut).max() == 0


def test_to_pixels__shrinking_is_antialiased() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    image[::2] = 255
    pixels = to_pixels(image, SQUASH)
    assert pixels.min() >= 120
    assert pixels.max() <= 135


def test_to_pixels__channels_stay_in_order() -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    image[..., 0], image[..., 2] = 200, 30
    assert to_pixels(image, SQUASH).mean(axis=(1, 2)).tolist() == [200, 0, 30]


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))])
def test_to_pixels__refuses_other_arrays(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"uint8 RGB \[height, width, 3\]"):
        to_pixels(image, SQUASH)
