"""Pillow's antialiased resize, bit for bit, as sparse products of integers: half of its time on small pictures."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

Interpolation = Literal["bilinear", "bicubic"]
Window = tuple[int, int, int, int]
"""Left, top, right, bottom."""

# Pillow's: weights are 22-bit fractions, and each of the two passes rounds to a whole grey level.
_FRACTION_BITS = 22
_SUPPORT_PX = {"bilinear": 1.0, "bicubic": 2.0}

# Numbers (4 bytes each) that a product takes at once. 2026-11: one plane of a photograph of 350 px in one go is fastest;
# from 250,000 on the allocator asks the system for each array, at three times the time.
_BLOCK = 200_000


def resized_window(
    image_hwc: NDArray[np.uint8], size: tuple[int, int], window: Window, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """pixels_chw of the `window` of the picture at `size` (width, height); what is cut away is not computed.

    The pixels of Pillow 13's `image.resize(size, interpolation).crop(window)`.
    """
    import numpy as np

    height, width, channels = image_hwc.shape
    left, top, right, bottom = window
    if size[1] < height and height - size[1] > 2 * (width - size[0]):
        # Pillow 13 then goes down before across, which rounds otherwise: the same as across first on the picture on its side.
        on_its_side = image_hwc.transpose(1, 0, 2)
        turned = resized_window(on_its_side, (size[1], size[0]), (top, left, bottom, right), interpolation)
        return np.ascontiguousarray(turned.transpose(0, 2, 1))
    across, across_from = _weights(width, size[0], left, right, interpolation)
    down, down_from = _weights(height, size[1], top, bottom, interpolation)
    needed = image_hwc[down_from, across_from]
    narrow_wh = np.empty((right - left, len(needed)), np.uint8)
    pixels_chw = np.empty((channels, bottom - top, right - left), np.uint8)
    for channel in range(channels):
        _weigh(across, needed[:, :, channel].T, narrow_wh)
        _weigh(down, narrow_wh.T, pixels_chw[channel])
    return pixels_chw


def _weigh(weights: csr_array, plane: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Weighted sums along the first axis of a plane, rounded as Pillow does."""
    import numpy as np

    pieces = math.ceil(plane.size / _BLOCK)  # of about one width: a thin last one would cost as much as a whole
    step = math.ceil(plane.shape[1] / pieces)
    for start in range(0, plane.shape[1], step):
        sums = weights @ plane[:, start : start + step].astype(np.int32, order="C")
        sums += 1 << (_FRACTION_BITS - 1)
        sums >>= _FRACTION_BITS
        out[:, start : start + step] = np.clip(sums, 0, 255, out=sums)


@lru_cache(maxsize=256)
def _weights(size: int, new_size: int, start: int, end: int, interpolation: Interpolation) -> tuple[csr_array, slice]:
    """int32 weights of the new pixels `start` to `end`, and which old ones they are of."""
    import numpy as np
    from scipy.sparse import csr_array

    scale = size / new_size
    stretch = max(scale, 1.0)
    support = _SUPPORT_PX[interpolation] * stretch
    centres = (np.arange(start, end) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    stop = np.minimum((centres + support + 0.5).astype(np.int64), size)
    taps = first[:, None] + np.arange((stop - first).max())
    inside = taps < stop[:, None]
    fractions = np.where(inside, _kernel((taps - centres[:, None] + 0.5) * (1.0 / stretch), interpolation), 0.0)
    # accumulate, not sum: numpy sums in pairs, and Pillow one by one, which differs in the last bit.
    fractions *= 1.0 / np.add.accumulate(fractions, axis=1)[:, -1:]
    whole = (fractions * (1 << _FRACTION_BITS) + np.where(fractions < 0, -0.5, 0.5)).astype(np.int32)
    used = slice(int(first[0]), int(stop[-1]))
    row_ends = np.concatenate(([0], np.cumsum(inside.sum(axis=1))))
    weights = csr_array(
        (whole[inside], taps[inside] - used.start, row_ends), shape=(end - start, used.stop - used.start)
    )
    weights.eliminate_zeros()
    return weights, used


def _kernel(offset_px: NDArray[np.float64], interpolation: Interpolation) -> NDArray[np.float64]:
    """The triangle, or the cubic of Keys (IEEE ASSP 29, 1981) with a = -0.5, in the order of Pillow's operations."""
    import numpy as np

    x = np.abs(offset_px)
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
