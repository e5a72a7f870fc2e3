"""Pixels of records with a cache: the arrays, and so the weights, are those without it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from platform_assets.vision.fitting import ChangedImage, Pixels, fit_network_trial
from platform_assets.vision.pixel_cache import PixelCache
from platform_assets.vision.preprocessing import Preprocessing
from platform_assets.vision.weights import weights_sha256
from platform_tests.vision.pictures import png, write
from platform_tests.vision.shapes import PREPROCESSING, SHAPES, shapes_trial

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
    return Pixels(tmp_path / "images", cache=PixelCache(tmp_path / "cache", max_bytes=ROOMY))


@pytest.mark.parametrize("preprocessing", [PREPROCESSING, SHORTER_SIDE, BOXED], ids=["squash", "shorter_side", "boxed"])
def test_pixels__are_the_same_with_an_empty_and_a_full_cache(
    tmp_path: Path, records: pl.DataFrame, preprocessing: Preprocessing
) -> None:
    plain = Pixels(tmp_path / "images").of(records, preprocessing)
    np.testing.assert_array_equal(with_cache(tmp_path).of(records, preprocessing), plain)
    for path in records["path"]:
        (tmp_path / "images" / path).unlink()
    shuffled = records.reverse()
    np.testing.assert_array_equal(with_cache(tmp_path).of(shuffled, preprocessing), plain[::-1])


def test_pixels__a_changed_file_is_not_kept_under_the_old_id(tmp_path: Path, records: pl.DataFrame) -> None:
    write(tmp_path, "images/4.png", png(99))
    with pytest.raises(ChangedImage, match=r"4\.png: its SHA-256 is now .*; materialize the records again"):
        with_cache(tmp_path).of(records, PREPROCESSING)
    assert not list((tmp_path / "cache").rglob("*.pixels"))


def test_pixels__progress_counts_the_decoded_of_all(tmp_path: Path, records: pl.DataFrame) -> None:
    with_cache(tmp_path).of(records[:5], PREPROCESSING)
    heard: list[tuple[int, int]] = []
    cache = PixelCache(tmp_path / "cache", max_bytes=ROOMY)
    Pixels(tmp_path / "images", on_image=lambda *seen: heard.append(seen), cache=cache).of(records, PREPROCESSING)
    assert heard == [(done, 12) for done in range(1, 8)]


def test_training__ends_with_the_same_weights_with_and_without_a_cache(tmp_path: Path, records: pl.DataFrame) -> None:
    trial = shapes_trial(epochs=1, batch_size=8, max_steps=1)

    def weights(pixels: Pixels, work: str) -> str:
        fitted = fit_network_trial(trial, records, pixels, SHAPES, device="cpu", work_dir=tmp_path / work)
        return weights_sha256(fitted.classifier)

    without = weights(Pixels(tmp_path / "images"), "without")
    with_cache(tmp_path).of(records, trial.preprocessing)
    assert weights(with_cache(tmp_path), "filled") == without
