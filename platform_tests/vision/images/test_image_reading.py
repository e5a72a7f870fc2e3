"""How images are read is measured on them: the faster decoder, the fewest threads, and never other pixels."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from platform_assets.vision.images.decoding import DECODERS, Decoder, decode_rgb
from platform_assets.vision.images.image_reading import Reading, choose_reading, first_fast
from platform_assets.vision.training.pixels import Pixels
from platform_tests.vision.pictures import encoded, noise, write
from platform_tests.vision.shapes import PREPROCESSING

MANY = 10**6


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)


@pytest.mark.parametrize("slow", DECODERS)
def test_choose_reading__the_faster_decoder(slow: Decoder) -> None:
    def read(row: int, decoder: Decoder) -> None:
        time.sleep(0.004 if decoder == slow else 0.0005)

    reading, rates = choose_reading(read, MANY, seconds_budget=0.2)
    assert reading.decoder != slow
    assert reading.threads == 2
    assert list(rates) == [Reading(decoder, threads) for threads in (1, 2) for decoder in DECODERS]


def test_choose_reading__few_images_are_not_worth_it() -> None:
    rows: list[int] = []
    reading, rates = choose_reading(lambda row, decoder: rows.append(row), 5)
    assert (reading, rates) == (Reading("libjpeg-turbo", 2), {})
    assert rows == [0, 1, 2, 3, 4]


def test_first_fast__a_tenth_is_not_worth_a_thread() -> None:
    one, two = Reading("libjpeg-turbo", 1), Reading("libjpeg-turbo", 2)
    assert first_fast({one: 91.0, two: 100.0}) == one
    assert first_fast({one: 89.0, two: 100.0}) == two


@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decoders__make_the_same_pixels(mode: str, options: dict[str, object]) -> None:
    data = encoded(noise(3, width=83, height=61).convert(mode), "JPEG", **options)
    turbo, pillow = (decode_rgb(data, decoder=decoder) for decoder in DECODERS)
    np.testing.assert_array_equal(turbo, pillow)


def test_pixels__say_how_they_are_read_once(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, f"{seed}.jpg", encoded(noise(seed), "JPEG"))
    records = pl.DataFrame({"image_id": ["a", "b", "c"], "path": ["0.jpg", "1.jpg", "2.jpg"]})
    said: list[str] = []
    pixels = Pixels(tmp_path, spill=tmp_path / "spill", say=said.append)
    pixels.of(records, PREPROCESSING)
    pixels.of(records[:2], PREPROCESSING)
    assert said == ["images are decoded by libjpeg-turbo in 2 threads (measured: not worth measuring)"]
