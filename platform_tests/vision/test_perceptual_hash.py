"""The hash is imagehash's, bit for bit, at every size and for pictures without any texture."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from platform_assets.vision.perceptual_hash import phash

SIDES = st.one_of(st.integers(1, 130), st.sampled_from([32, 33, 256, 300, 511, 512, 513]))


def picture(kind: str, width: int, height: int, seed: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    if kind == "flat":
        return np.full((height, width), generator.integers(256), dtype=np.uint8)
    if kind == "stripes":
        return (np.indices((height, width)).sum(axis=0) // generator.integers(1, 30) % 2 * 255).astype(np.uint8)
    if kind == "smooth":
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6), dtype=np.uint8))
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return generator.integers(0, 256, (height, width), dtype=np.uint8)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["flat", "stripes", "smooth", "noise"]), SIDES, SIDES, st.integers(0, 1000))
def test_phash__is_imagehashs(kind: str, width: int, height: int, seed: int) -> None:
    grey = Image.fromarray(picture(kind, width, height, seed))
    assert phash(grey) == str(imagehash.phash(grey))


@pytest.mark.parametrize("size", [(40, 40), (40, 200), (200, 40), (64, 90), (64, 100), (512, 512)])
def test_phash__of_pictures_that_pillow_resizes_across_or_down_first(size: tuple[int, int]) -> None:
    for seed in range(20):
        grey = Image.fromarray(picture("noise", *size, seed))
        assert phash(grey) == str(imagehash.phash(grey))
