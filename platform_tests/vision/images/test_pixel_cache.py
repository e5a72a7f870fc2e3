"""Cached pixels are the loaded ones, bit for bit, whatever happens to the files or beside them."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from platform_assets.vision.images import pixel_cache
from platform_assets.vision.images.pixel_cache import PixelCache
from platform_assets.vision.recipes.preprocessing import Preprocessing

SIDE = 8
IMAGE_BYTES = 3 * SIDE * SIDE
ROOMY = 1 << 30


def preprocessing(side: int = SIDE) -> Preprocessing:
    return Preprocessing(image_size_px=side, resize="squash", interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)


def name(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def pixels(numbers: Sequence[int], side: int = SIDE) -> NDArray[np.uint8]:
    shape = (3, side, side)
    return np.stack([np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8) for number in numbers])


class Loads:
    """Reads images of numbers, and remembers which."""

    def __init__(self, cache: PixelCache) -> None:
        self.cache = cache
        self.loaded: list[int] = []

    def __call__(self, numbers: Sequence[int], side: int = SIDE) -> list[int]:
        """Gets the images, checks them, and returns the numbers that were loaded."""
        self.loaded = []

        def load(rows: Sequence[int]) -> NDArray[np.uint8]:
            self.loaded += [numbers[row] for row in rows]
            return pixels([numbers[row] for row in rows], side)

        found = self.cache.images([name(number) for number in numbers], preprocessing(side), load)
        np.testing.assert_array_equal(found, pixels(numbers, side))
        return self.loaded


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_cache, "SHARD_BYTES", 4 * IMAGE_BYTES)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.pixels"), key=lambda path: path.stat().st_mtime_ns)


def test_images__are_loaded_once_in_any_order(tmp_path: Path, small_shards: None) -> None:
    assert Loads(PixelCache(tmp_path, max_bytes=ROOMY))(range(10)) == list(range(10))
    again = Loads(PixelCache(tmp_path, max_bytes=ROOMY))
    assert again([7, 3, 3, 11, 0]) == [11]
    assert again([11, 9, *range(9)]) == []
    assert len(shards(tmp_path)) == 4


def test_images__of_another_preprocessing_are_others(tmp_path: Path) -> None:
    loads = Loads(PixelCache(tmp_path, max_bytes=ROOMY))
    loads([1, 2])
    assert loads([1, 2], side=16) == [1, 2]
    assert loads([2, 1]) == []


def test_images__one_name_on_two_rows(tmp_path: Path) -> None:
    loads = Loads(PixelCache(tmp_path, max_bytes=ROOMY))
    loads([5, 6, 5])
    assert loads([5, 5, 6]) == []


DAMAGE = {
    "empty": lambda data: b"",
    "name": lambda data: b"X" + data[1:],
    "cut": lambda data: data[:-1],
    "pixel": lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
    "checksum": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "one whole image short": lambda data: data[: -64 - IMAGE_BYTES],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_images__a_damaged_shard_is_found_and_made_again(tmp_path: Path, small_shards: None, damage: str) -> None:
    loads = Loads(PixelCache(tmp_path, max_bytes=ROOMY))
    loads(range(8))
    broken = next(path for path in shards(tmp_path) if DAMAGE[damage](path.read_bytes()) != path.read_bytes())
    broken.write_bytes(DAMAGE[damage](broken.read_bytes()))
    reloaded = loads(range(8))
    assert reloaded
    assert set(reloaded) <= set(range(4)) or set(reloaded) <= set(range(4, 8))
    assert loads(range(8)) == []


@settings(max_examples=30)
@given(st.integers(0, 1500), st.binary(min_size=1, max_size=3))
def test_images__any_bytes_overwritten_never_change_what_is_returned(
    tmp_path_factory: pytest.TempPathFactory, at: int, data: bytes
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    loads = Loads(PixelCache(folder, max_bytes=ROOMY))
    loads(range(5))
    (shard,) = shards(folder)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:at] + data + whole[at + len(data) :])
    loads(range(5))
    assert loads(range(5)) == []


def test_room__the_least_recently_used_shards_go(tmp_path: Path, small_shards: None) -> None:
    shard_bytes = 4 * (IMAGE_BYTES + 64)
    loads = Loads(PixelCache(tmp_path, max_bytes=3 * shard_bytes))
    for start in (0, 4, 8):
        loads(range(start, start + 4))
        for age, path in enumerate(reversed(shards(tmp_path))):
            os.utime(path, ns=(0, 10**9 - age))
    loads(range(4))  # used again: now the newest
    loads(range(12, 16))
    assert sum(path.stat().st_size for path in shards(tmp_path)) <= 3 * shard_bytes
    assert loads([*range(4), *range(8, 16)]) == []
    assert loads(range(4, 8)) == [4, 5, 6, 7]


def test_room__a_set_larger_than_the_cache_keeps_its_first_part(tmp_path: Path, small_shards: None) -> None:
    loads = Loads(PixelCache(tmp_path, max_bytes=2 * (4 * (IMAGE_BYTES + 64))))
    loads(range(20))
    assert loads(range(20)) == list(range(8, 20))
    assert Loads(PixelCache(tmp_path / "none", max_bytes=0))(range(3)) == [0, 1, 2]
    assert shards(tmp_path / "none") == []


def test_room__what_a_killed_process_left_goes_too(tmp_path: Path, small_shards: None) -> None:
    loads = Loads(PixelCache(tmp_path, max_bytes=2 * (4 * (IMAGE_BYTES + 64))))
    loads(range(4))
    left = shards(tmp_path)[0].parent / ".1.tmp"
    left.write_bytes(bytes(1000))
    os.utime(left, ns=(0, 0))
    loads(range(4, 8))
    assert not left.exists()
    assert loads(range(8)) == []


def test_load__an_error_leaves_nothing_half(tmp_path: Path) -> None:
    def fail(rows: Sequence[int]) -> NDArray[np.uint8]:
        raise ValueError("no such image")

    with pytest.raises(ValueError, match="no such image"):
        PixelCache(tmp_path, max_bytes=ROOMY).images([name(0)], preprocessing(), fail)
    assert list(tmp_path.rglob("*")) == []


def _many_reads(folder: Path, max_bytes: int, seed: int) -> None:
    loads, generator = Loads(PixelCache(folder, max_bytes=max_bytes)), np.random.default_rng(seed)
    for _ in range(10):
        loads([int(number) for number in generator.integers(0, 40, 12)])


def test_processes__two_at_once_in_too_little_room_read_what_is_right(tmp_path: Path) -> None:
    max_bytes = 40 * IMAGE_BYTES
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_many_reads, args=(tmp_path, max_bytes, seed)) for seed in (1, 2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert not list(tmp_path.rglob("*.tmp"))
