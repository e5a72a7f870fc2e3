"""All pairs of 64-bit perceptual hashes within a Hamming distance, by multi-index hashing. No images here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]
    Hashes = NDArray[np.uint64]

BANDS = 4
BAND_BITS = 16
MAX_PAIRS = 5_000_000
_MOST_AT_ONCE = 1_000_000


class TooManyPairs(ValueError):
    """So many look-alikes that a list of pairs says nothing."""


def hash_pairs(hashes_n: Hashes, limit: int) -> tuple[Rows, Rows, NDArray[np.uint8]]:
    """Rows i < j and the distance of every pair with distance <= limit, sorted. Exact.

    Of four bands of 16 bits one differs in at most limit // 4 bits (Norouzi, Punjani, Fleet 2012): buckets of equal
    bands are joined under every such change, so memory follows the pairs found. Raises TooManyPairs.
    """
    import numpy as np

    if not 0 <= limit < BANDS * 4:
        raise ValueError(f"hash limit {limit} is outside 0 to {BANDS * 4 - 1} bits; unrelated pictures differ in 32")
    radius, total = limit // BANDS, 0
    lock = Lock()

    def of_band(band: int) -> list[tuple[Rows, Rows]]:
        nonlocal total
        found = []
        for rows_i, rows_j in _candidates(_band(hashes_n, band), radius):
            differing = hashes_n[rows_i] ^ hashes_n[rows_j]
            near = np.flatnonzero(np.bitwise_count(differing) <= limit)
            near = near[_first_seen_in(differing[near], band, radius)]
            found.append((rows_i[near], rows_j[near]))
            with lock:
                total += near.size
            if total > MAX_PAIRS:
                raise TooManyPairs(
                    f"over {MAX_PAIRS:,} of the {len(hashes_n):,} images' pairs lie within {limit} bits: the images share one "
                    "layout; say `near_duplicates: ignore` in the dataset's YAML, with a split that is not `grouped`"
                )
        return found

    with ThreadPoolExecutor(min(BANDS, os.cpu_count() or 1), thread_name_prefix="hash_pairs") as pool:
        found = [pair for band in pool.map(of_band, range(BANDS)) for pair in band]
    rows_i, rows_j = (np.concatenate([pair[side] for pair in found]) for side in (0, 1))
    order = np.lexsort((rows_j, rows_i))
    rows_i, rows_j = rows_i[order], rows_j[order]
    return rows_i, rows_j, np.bitwise_count(hashes_n[rows_i] ^ hashes_n[rows_j])


def _band(hashes_n: Hashes, band: int) -> NDArray[np.int64]:
    """Every fourth bit: neighbouring bits of a DCT hash go together, and buckets of them would be uneven."""
    import numpy as np

    bits = [((hashes_n >> np.uint64(BANDS * bit + band)) & np.uint64(1)) << np.uint64(bit) for bit in range(BAND_BITS)]
    return np.asarray(np.bitwise_or.reduce(bits), dtype=np.int64)


def _candidates(keys_n: NDArray[np.int64], radius: int) -> Iterator[tuple[Rows, Rows]]:
    """Rows i < j whose keys differ in at most `radius` bits, in pieces of bounded size."""
    import numpy as np

    order = np.argsort(keys_n, kind="stable")
    starts = np.concatenate([[0], np.bincount(keys_n, minlength=1 << BAND_BITS).cumsum()])
    for flips in range(radius + 1):
        for bits in combinations(range(BAND_BITS), flips):
            wanted = keys_n ^ sum(1 << bit for bit in bits)
            firsts, counts = starts[wanted], starts[wanted + 1] - starts[wanted]
            for rows in _bounded(counts):
                rows_i = np.repeat(rows, counts[rows])
                ends = counts[rows].cumsum()
                offsets = np.arange(len(rows_i)) - np.repeat(ends - counts[rows], counts[rows])
                rows_j = order[np.repeat(firsts[rows], counts[rows]) + offsets]
                yield rows_i[rows_i < rows_j], rows_j[rows_i < rows_j]


def _bounded(counts_n: NDArray[np.int64]) -> Iterator[Rows]:
    """Rows that have a partner, in pieces with about `_MOST_AT_ONCE` partners together."""
    import numpy as np

    rows = np.flatnonzero(counts_n)
    pieces = counts_n[rows].cumsum() // _MOST_AT_ONCE
    yield from np.split(rows, np.flatnonzero(np.diff(pieces)) + 1)


def _first_seen_in(differing: Hashes, band: int, radius: int) -> NDArray[np.bool_]:
    """Whether no earlier band has found the pair already."""
    import numpy as np

    seen = np.zeros(len(differing), dtype=bool)
    for earlier in range(band):
        seen |= np.bitwise_count(_band(differing, earlier)) <= radius
    return ~seen
