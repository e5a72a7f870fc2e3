"""Pixels that training will ask for, made while the scan has the bytes of an image at hand, and kept in the pixel cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.images.decoding import decode_rgb
from platform_assets.vision.images.pixel_cache import PixelCache
from platform_assets.vision.recipes.preprocessing import Preprocessing, to_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray


class DecodingAhead(BaseModel):
    """Where the pixels go, and what is made of each image. It travels to the reading processes as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    max_bytes: int
    preprocessings: tuple[Preprocessing, ...]

    @property
    def cache(self) -> PixelCache:
        return PixelCache(self.folder, max_bytes=self.max_bytes)


@dataclass
class Decoder:
    """Makes the pixels of the images of one task; they are in the cache after `keep`."""

    ahead: DecodingAhead
    max_pixels: int

    def __post_init__(self) -> None:
        self._made: list[list[NDArray[np.uint8]]] = [[] for _ in self.ahead.preprocessings]
        self._names: list[str] = []

    def decode(self, digest: bytes, data: bytes) -> None:
        """`digest` is the SHA-256 of the bytes, which the scan has read without a fault."""
        image_hwc = decode_rgb(data, max_pixels=self.max_pixels)
        self._names.append(digest.hex())
        for made, preprocessing in zip(self._made, self.ahead.preprocessings, strict=True):
            made.append(to_pixels(image_hwc, preprocessing))

    def keep(self) -> None:
        for made, preprocessing in zip(self._made, self.ahead.preprocessings, strict=True):
            if made:
                self.ahead.cache.add(self._names, preprocessing, np.stack(made))
