"""Pixels of records with a cache: the arrays, and so the weights, are those without it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from platform_assets.vision.images.pixel_cache import PixelCache
from platform_assets.vision.recipes.preprocessing import Preprocessing
from platform_assets.vision.recipes.resolving import training_pixels
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training import batches
from platform_assets.vision.training.pixels import ChangedImage, Pixels
from platform_tests.vision.pictures import png, write
from platform_tests.vision.shapes import PREPROCESSING, SHAPES

ROOMY = 1 << 30
SHORTER_SIDE = PREPROCESSING.model_copy(update={"resize": "shorter_side", "crop_fraction": 0.875})
BOXED = PREPROCESSING.model_copy(update={"box_margin": 0.1})


@pytest.fixture
def records(tmp_path: Path) -> pl.DataFrame:
    rows = []
    for seed in range(12):
        image = write(tmp_path, f"images/{seed}.png", png(seed))
        image_id = hashlib.sha256(image.read_bytes()).hexdigest()
        box = [2.0 + seed % 3, 1.0, 10.0, 9.0]
        row = {"image_id": image_id, "path": image.name, "label": SHAPES.names[seed % 3], "box": box}
        rows.append(row | {"split": "train" if seed < 9 else "val"})
    return pl.DataFrame(rows, schema_overrides={"box": pl.Array(pl.Float32, 4)})


def with_cache(tmp_path: Path) -> Pixels:
    return Pixels(
        tmp_path / "images", spill=tmp_path / "decoded", cache=PixelCache(tmp_path / "cache", max_bytes=ROOMY)
    )


@pytest.mark.parametrize("preprocessing", [PREPROCESSING, SHORTER_SIDE, BOXED], ids=["squash", "shorter_side", "boxed"])
def test_pixels__are_the_same_with_an_empty_and_a_full_cache(
    tmp_path: Path, records: pl.DataFrame, preprocessing: Preprocessing
) -> None:
    plain = Pixels(tmp_path / "images", spill=tmp_path / "decoded").of(records, preprocessing)
    np.testing.assert_array_equal(with_cache(tmp_path).of(records, preprocessing), plain)
    for path in records["path"]:
        (tmp_path / "images" / path).unlink()
    shuffled = records.reverse()
    np.testing.assert_array_equal(with_cache(tmp_path).of(shuffled, preprocessing), plain[::-1])


def test_pixels__recipes_of_other_sizes_and_normalizations_share_pictures_of_one_side(
    tmp_path: Path, records: pl.DataFrame
) -> None:
    def wanted(crop_px: int, crop_scale: float, mean: float) -> Preprocessing:
        seen = SHORTER_SIDE.model_copy(update={"image_size_px": crop_px, "mean": (mean,) * 3})
        return training_pixels(seen, TrainRecipe(augmentation="crop_flip", crop_scale=crop_scale))

    first = with_cache(tmp_path).of(records, wanted(32, 1.5, 0.5))
    for path in records["path"]:
        (tmp_path / "images" / path).unlink()
    np.testing.assert_array_equal(with_cache(tmp_path).of(records, wanted(24, 2.0, 0.4)), first)
    with pytest.raises(FileNotFoundError):
        with_cache(tmp_path).of(records, wanted(32, 2.0, 0.5))


def test_pixels__a_changed_file_is_not_kept_under_the_old_id(tmp_path: Path, records: pl.DataFrame) -> None:
    write(tmp_path, "images/4.png", png(99))
    with pytest.raises(ChangedImage, match=r"4\.png: its SHA-256 is now .*; materialize the records again"):
        with_cache(tmp_path).of(records, PREPROCESSING)
    assert not list((tmp_path / "cache").rglob("*.pixels"))


def test_pixels__progress_counts_the_decoded_of_all(tmp_path: Path, records: pl.DataFrame) -> None:
    with_cache(tmp_path).of(records[:5], PREPROCESSING)
    heard: list[tuple[int, int]] = []
    cache = PixelCache(tmp_path / "cache", max_bytes=ROOMY)
    Pixels(tmp_path / "images", spill=tmp_path / "decoded", on_image=lambda *seen: heard.append(seen), cache=cache).of(
        records, PREPROCESSING
    )
    assert heard == [(done, 12) for done in range(1, 8)]


def test_pixels__what_does_not_fit_in_memory_is_read_from_a_file_with_the_same_pixels(
    tmp_path: Path, records: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Pixels(tmp_path / "images", spill=tmp_path / "decoded").of(records, PREPROCESSING)
    assert not (tmp_path / "decoded").exists()
    monkeypatch.setattr(batches, "_MEMORY_SHARE", 1e-12)
    with pytest.raises(batches.ImagesDoNotFit):
        batches.require_memory(records.height, PREPROCESSING.image_size_px)
    monkeypatch.setattr(batches, "require_memory", lambda images, side: None)  # a chunk of the file does fit
    heard: list[tuple[int, int]] = []
    spilled = Pixels(tmp_path / "images", spill=tmp_path / "decoded", on_image=lambda *seen: heard.append(seen))
    mapped = spilled.of(records, PREPROCESSING)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, plain)
    assert heard[-1] == (12, 12)
    for path in records["path"]:
        (tmp_path / "images" / path).unlink()
    again = Pixels(tmp_path / "images", spill=tmp_path / "decoded").of(records, PREPROCESSING)
    np.testing.assert_array_equal(again, plain)
    assert spilled.of(records, PREPROCESSING) is mapped


def test_pixels__two_sizes_are_held_at_once(tmp_path: Path, records: pl.DataFrame) -> None:
    pixels = Pixels(tmp_path / "images", spill=tmp_path / "decoded")
    larger = PREPROCESSING.model_copy(update={"image_size_px": 48})
    first, second = pixels.of(records, PREPROCESSING), pixels.of(records, larger)
    assert pixels.of(records, PREPROCESSING) is first
    assert pixels.of(records, larger) is second
    pixels.of(records[:3], PREPROCESSING)
    assert pixels.of(records, PREPROCESSING) is not first
