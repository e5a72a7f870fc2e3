"""What a scan decodes ahead is what training would have decoded, bit for bit, in threads and in processes alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from polars.testing import assert_frame_equal

from platform_assets.vision.datasets import inspection
from platform_assets.vision.datasets.inspection import inspect_files
from platform_assets.vision.images.decoding_ahead import DecodingAhead
from platform_assets.vision.images.pixel_cache import PixelCache
from platform_assets.vision.recipes.preprocessing import Preprocessing
from platform_assets.vision.training.pixels import Pixels
from platform_tests.vision.pictures import encoded, noise, png, write

ROOMY = 1 << 30


def preprocessing(side: int, crop_fraction: float = 1.0) -> Preprocessing:
    return Preprocessing(
        image_size_px=side,
        resize="shorter_side",
        crop_fraction=crop_fraction,
        interpolation="bicubic",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )


BOTH = (preprocessing(16, 0.8), preprocessing(24))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for seed in range(20):
        write(root, f"{seed:02}.png", png(seed))
        write(root, f"{seed:02}.jpg", encoded(noise(seed, width=90, height=70), "JPEG"))
    write(root, "cut.png", png(99)[:200])
    return root


@pytest.mark.parametrize("processes", [False, True])
def test_scan__leaves_the_pixels_that_training_asks_for(
    folder: Path, tmp_path: Path, processes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if processes:
        for name, files in {"_PROCESSES_FROM": 1, "_FILES_PER_PROCESS": 20, "_FILES_PER_PROCESS_TASK": 6}.items():
            monkeypatch.setattr(inspection, name, files)
    ahead = DecodingAhead(folder=tmp_path / "cache", max_bytes=ROOMY, preprocessings=BOTH)
    paths = [path.name for path in folder.iterdir()]
    found = inspect_files(folder, paths, ahead=ahead, threads=2)
    assert_frame_equal(found.files, inspect_files(folder, paths).files)
    records = found.files.filter(pl.col("reason").is_null())
    assert records.height == 40
    heard: list[int] = []
    cache = PixelCache(tmp_path / "cache", max_bytes=ROOMY)
    pixels = Pixels(folder, spill=tmp_path / "spill", on_image=lambda done, of: heard.append(done), cache=cache)
    for each in BOTH:
        assert ahead.cache.held(records["image_id"].to_list(), each) == 40
        assert_array_equal(pixels.of(records, each), Pixels(folder, spill=tmp_path / "spill").of(records, each))
    assert heard == []  # nothing was decoded


def test_scan__decodes_ahead_only_what_it_opens_and_what_has_room(folder: Path, tmp_path: Path) -> None:
    paths = [path.name for path in folder.iterdir()]
    small = DecodingAhead(folder=tmp_path / "cache", max_bytes=1000, preprocessings=BOTH)
    found = inspect_files(folder, paths, ahead=small)
    assert found.files["reason"].is_null().sum() == 40
    assert list((tmp_path / "cache").rglob("*.pixels")) == []


def test_add__takes_no_place_of_what_was_asked_for(tmp_path: Path) -> None:
    cache, names = PixelCache(tmp_path, max_bytes=3000), [f"{number:064x}" for number in range(3)]
    one = np.zeros((1, 3, 16, 16), dtype=np.uint8)
    assert [cache.add([name], BOTH[0], one) for name in names] == [True, True, True]
    assert not cache.add([f"{9:064x}"], BOTH[0], one)
    assert cache.held([*names, f"{9:064x}"], BOTH[0]) == 3
    assert cache.held(names, BOTH[1]) == 0
