"""Pairs of hashes: exactly those of a comparison of all with all, each once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.vision.quality import hash_pairs as module
from platform_assets.vision.quality.hash_pairs import TooManyPairs, hash_pairs


def compared(hashes: np.ndarray, limit: int) -> list[tuple[int, int, int]]:
    distances = np.bitwise_count(hashes[:, None] ^ hashes)
    return [(i, j, int(distances[i, j])) for i, j in zip(*np.nonzero(np.triu(distances <= limit, 1)), strict=True)]


def found(hashes: np.ndarray, limit: int) -> list[tuple[int, int, int]]:
    return [(int(i), int(j), int(d)) for i, j, d in zip(*hash_pairs(hashes, limit), strict=True)]


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(0, 15), st.integers(0, 60))
def test_pairs__are_those_of_all_with_all(seed: int, limit: int, count: int) -> None:
    # Variations of three hashes by up to 12 bits: distances on both sides of every limit.
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 2**64, 3, dtype=np.uint64)[generator.integers(0, 3, count)]
    for _ in range(12):
        flipped = np.uint64(1) << generator.integers(0, 64, count).astype(np.uint64)
        hashes = np.where(generator.random(count) < 0.5, hashes ^ flipped, hashes)
    assert found(hashes, limit) == compared(hashes, limit)


def test_pairs__in_small_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.array([7, 7, 7, 6, 5, 2**63, 7], dtype=np.uint64)
    whole = found(hashes, 3)
    monkeypatch.setattr(module, "_MOST_AT_ONCE", 2)
    assert found(hashes, 3) == whole == compared(hashes, 3)


def test_pairs__too_many_are_refused_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAIRS", 40)
    with pytest.raises(TooManyPairs, match=r"over 40 of the 10 images' pairs.*`near_duplicates: ignore`"):
        hash_pairs(np.zeros(10, dtype=np.uint64), 3)


@pytest.mark.parametrize("limit", [-1, 16])
def test_pairs__a_limit_without_meaning_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=f"hash limit {limit} is outside 0 to 15"):
        hash_pairs(np.zeros(2, dtype=np.uint64), limit)
