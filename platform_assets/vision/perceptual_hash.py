"""The perceptual hash of a picture: imagehash's phash (DCT, 64 bits), bit for bit, two to three times as fast."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIDE, _LOW = 32, 8
# Over this Pillow is as fast as the product, and the weights of every side would fill the memory.
_LARGEST_SIDE = 512
# Multiplications in one product: OpenBLAS takes threads of its own for more, which is slow beside the scan's threads.
_PRODUCT = 1 << 18
# Pillow resizes 8-bit pictures in whole numbers: weights times 2**22, summed, half added, shifted back, cut to a byte.
# Here the weights are those divided by 2**22, which loses nothing.
_WEIGHT_BITS = 22


def phash(grey: Image.Image) -> str:
    """16 hex digits: which of the 64 lowest DCT frequencies of the picture (mode L) at 32 x 32 lie over their median."""
    return phashes([at_32(grey)])[0]


def phashes(greys_32: Sequence[NDArray[np.float64]]) -> list[str]:
    """The hashes of pictures as `at_32` gives them; of 16 at once in less than half the time of one by one."""
    import scipy.fft

    if not greys_32:
        return []
    # The two transforms in imagehash's order, so that ties in flat pictures break as they do there.
    down = scipy.fft.dct(np.stack(greys_32), axis=1)[:, :_LOW]
    spectra = scipy.fft.dct(down, axis=2)[:, :, :_LOW].reshape(len(greys_32), _LOW * _LOW)
    ordered = np.sort(spectra)
    median = (ordered[:, spectra.shape[1] // 2 - 1] + ordered[:, spectra.shape[1] // 2]) / 2
    return [bits.tobytes().hex() for bits in np.packbits(spectra > median[:, None], axis=1)]


def at_32(grey: Image.Image) -> NDArray[np.float64]:
    """The picture at 32 x 32 as Pillow's Lanczos gives it, bit for bit.

    A product of multiples of 2**-22 below 2**31 is exact in any order of sums, and takes BLAS 0.4 of Pillow's time at 128 px.
    """
    width, height = grey.size
    if min(width, height) <= _SIDE or max(width, height) > _LARGEST_SIDE:
        return np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    pixels_hw = np.asarray(grey)
    # Pillow 13 goes down before across in tall pictures, which rounds otherwise.
    down_first = height - _SIDE > 2 * (width - _SIDE)
    return _across_and_down(pixels_hw.T).T if down_first else _across_and_down(pixels_hw)


def _across_and_down(pixels_hw: NDArray[np.uint8]) -> NDArray[np.float64]:
    height, width = pixels_hw.shape
    weights, step = _lanczos(width), _PRODUCT // (_SIDE * width)
    strips = [pixels_hw[top : top + step].astype(np.float64, order="C") @ weights for top in range(0, height, step)]
    return _to_bytes(_lanczos(height).T @ _to_bytes(np.concatenate(strips)))


def _to_bytes(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    sums += 0.5
    np.floor(sums, out=sums)
    return sums.clip(0, 255, out=sums)


@lru_cache(maxsize=_LARGEST_SIDE)
def _lanczos(side: int) -> NDArray[np.float64]:
    """weights [side, 32]: Pillow's own, read off by resizing a picture with 2**22 on its diagonal."""
    diagonal = np.zeros((side, side), dtype=np.int32)
    np.fill_diagonal(diagonal, 1 << _WEIGHT_BITS)
    weights = Image.fromarray(diagonal).resize((_SIDE, side), Image.Resampling.LANCZOS)
    return np.asarray(weights) / 2.0**_WEIGHT_BITS
