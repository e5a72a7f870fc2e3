"""Which decoder, in how many threads, reads images fastest here: measured on the images, not a constant."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from platform_assets.vision.images.decoding import DECODERS, Decoder
from platform_assets.vision.machine.devices import candidate_threads

_SAMPLED = 32
_GOOD_ENOUGH = 0.9
_WORTH_MEASURING = 10


class Reading(NamedTuple):
    """How images are read; every way gives the same pixels."""

    decoder: Decoder
    threads: int

    @property
    def text(self) -> str:
        return f"{self.decoder} in {self.threads} threads" if self.threads > 1 else f"{self.decoder} in one thread"


def choose_reading(
    read: Callable[[int, Decoder], object], images: int, *, seconds_budget: float = 1.0
) -> tuple[Reading, dict[Reading, float]]:
    """The way with the fewest threads that comes within 10 % of the fastest, and images per second by way.

    `read` reads the image of a row with a decoder. Where all of them take less than ten times the budget in one thread,
    nothing is measured: all cores read, and no rate is returned.
    """
    sample = np.unique(np.linspace(0, images - 1, _SAMPLED).astype(int)).tolist()
    started = time.perf_counter()
    for row in sample:  # afterwards the files are in the cache of the system, for every way alike
        read(row, DECODERS[0])
    ways = [Reading(decoder, threads) for threads in candidate_threads() for decoder in DECODERS]
    if (time.perf_counter() - started) / len(sample) * images < _WORTH_MEASURING * seconds_budget:
        return Reading(DECODERS[0], max(way.threads for way in ways)), {}
    rates = {way: _images_per_second(read, sample, way, seconds_budget / len(ways)) for way in ways}
    return first_fast(rates), rates


def first_fast(rates: Mapping[Reading, float]) -> Reading:
    """Of the ways within 10 % of the fastest the one that comes first."""
    return next(way for way, rate in rates.items() if rate >= _GOOD_ENOUGH * max(rates.values()))


def described(rates: Mapping[Reading, float]) -> str:
    return ", ".join(f"{way.text} {rate:,.0f}/s" for way, rate in rates.items()) or "not worth measuring"


def _images_per_second(
    read: Callable[[int, Decoder], object], sample: list[int], way: Reading, seconds: float
) -> float:
    with ThreadPoolExecutor(way.threads) as pool:
        started, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds or done == 0:
            done += len(list(pool.map(lambda row: read(row, way.decoder), sample)))
        return done / elapsed
