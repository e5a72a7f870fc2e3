"""The hash is within a few bits of imagehash's, at every size, and exact where there is nothing to see."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from platform_assets.vision.images.perceptual_hash import frequencies, phash, phashes


def picture(kind: str, width: int, height: int, seed: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    if kind == "smooth":
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6), dtype=np.uint8))
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return generator.integers(0, 256, (height, width), dtype=np.uint8)


def bits_apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize("kind", ["smooth", "noise"])
@pytest.mark.parametrize(("least", "most"), [(8, 31), (32, 130), (300, 513)])
def test_phash__is_near_imagehashs(kind: str, least: int, most: int) -> None:
    apart = []
    for seed in range(40):
        width, height = np.random.default_rng(seed).integers(least, most + 1, 2).tolist()
        grey_hw = picture(kind, width, height, seed)
        apart.append(bits_apart(phash(grey_hw), str(imagehash.phash(Image.fromarray(grey_hw)))))
    assert max(apart) <= 8
    assert np.mean(apart) < (1.5 if kind == "smooth" else 3)


def test_phash__tells_pictures_apart() -> None:
    hashes = [phash(picture("smooth", 90, 60, seed)) for seed in range(30)]
    assert min(bits_apart(one, other) for row, one in enumerate(hashes) for other in hashes[:row]) > 11


@pytest.mark.parametrize("change", [0.5, 0.25])
def test_phash__of_a_smaller_copy_is_near(change: float) -> None:
    for seed in range(30):
        whole = Image.fromarray(picture("smooth", 200, 150, seed))
        smaller = whole.resize((int(200 * change), int(150 * change)), Image.Resampling.BILINEAR)
        assert bits_apart(phash(np.asarray(whole)), phash(np.asarray(smaller))) <= 4


def test_phash__flat_pictures_have_one_hash() -> None:
    # Rounding decided it once: 8800880022008800 at 40 x 50.
    sizes = [(32, 32), (40, 50), (128, 77), (7, 9), (1, 1), (500, 3)]
    assert {phash(np.full(size, level, np.uint8)) for size in sizes for level in (1, 97, 255)} == {"8000000000000000"}


def test_frequencies__are_exact_whole_numbers() -> None:
    # Then no BLAS and no number of threads can give other bits.
    grey_hw = picture("noise", 333, 130, 0)
    found_k = frequencies(grey_hw)
    assert np.array_equal(found_k, np.rint(found_k))
    assert np.abs(found_k).max() < 2**53
    assert np.array_equal(frequencies(np.ascontiguousarray(grey_hw.T)).reshape(8, 8).T.ravel(), found_k)


def test_phashes__of_many_are_those_of_each() -> None:
    pictures = [picture(kind, 40 + seed, 50, seed) for seed in range(9) for kind in ("smooth", "noise")]
    together = phashes(np.stack([frequencies(grey_hw) for grey_hw in pictures]))
    assert [row.tobytes().hex() for row in together] == [phash(grey_hw) for grey_hw in pictures]
