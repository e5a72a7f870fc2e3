"""Decoded images of records, kept in memory from one trial to the next, or in a file where they do not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from platform_assets.vision.images.cropping import boxes_of, crop_id
from platform_assets.vision.images.image_reading import Reading, choose_reading, described
from platform_assets.vision.training.batches import fits_in_memory, load_image, load_images, load_images_to

if TYPE_CHECKING:
    from platform_assets.vision.formats.boxes import Box
    from platform_assets.vision.images.decoding import Decoder
    from platform_assets.vision.images.pixel_cache import PixelCache
    from platform_assets.vision.recipes.preprocessing import Preprocessing

# Sets of images: those that training crops are cut from, and those that the classifier sees.
_HELD = 2


class ChangedImage(ValueError):
    """A file whose bytes are not those that its record was made of."""


class Pixels:
    """The decoded images of one folder; the last two sets asked for are kept for the next trial.

    With a `cache` they are kept for the next process too: the same pixels, bit for bit. What takes more than 60 % of the
    memory is decoded into a file below `spill` and read from there. Decoder and threads are measured on the first set that
    is decoded, and `say` hears of it.
    """

    def __init__(
        self,
        root: Path,
        *,
        spill: Path,
        on_image: Callable[[int, int], None] | None = None,
        cache: PixelCache | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._root = root
        self._say = say
        self._reading: Reading | None = None
        self._spill = spill
        self._on_image = on_image
        self._cache = cache
        self._held: dict[tuple[tuple[str, ...], str], NDArray[np.uint8]] = {}

    def of(self, records: pl.DataFrame, preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """images_nchw uint8 of these records, row by row.

        Raises MissingBox when the preprocessing crops to boxes and, with a cache, ChangedImage.
        """
        boxes = boxes_of(records, preprocessing)
        crops = zip(records["image_id"], boxes or repeat(None, records.height), strict=True)
        key = (tuple(crop_id(image_id, box) for image_id, box in crops), preprocessing.pixels_id)
        if key not in self._held:
            while len(self._held) >= _HELD:
                del self._held[next(iter(self._held))]
            self._held[key] = self._made(key[0], records, boxes, preprocessing)
        self._held[key] = self._held.pop(key)  # the newest last
        return self._held[key]

    def rows(self, records: pl.DataFrame, rows_n: NDArray[np.int64], preprocessing: Preprocessing) -> NDArray[np.uint8]:
        """Rows of all the images, which the next trial finds decoded; those alone where all do not fit in memory twice."""
        if fits_in_memory(2 * records.height, preprocessing.image_size_px):
            return self.of(records, preprocessing)[rows_n]
        return self.of(records[rows_n], preprocessing)

    def _made(
        self, names: tuple[str, ...], records: pl.DataFrame, boxes: Sequence[Box] | None, preprocessing: Preprocessing
    ) -> NDArray[np.uint8]:
        if not fits_in_memory(records.height, preprocessing.image_size_px):
            return self._spilled(names, records, boxes, preprocessing)
        if self._cache is None:
            return self._loaded(records, boxes, preprocessing, of=records.height)
        return self._cached(self._cache, names, records, boxes, preprocessing)

    def _spilled(
        self, names: tuple[str, ...], records: pl.DataFrame, boxes: Sequence[Box] | None, preprocessing: Preprocessing
    ) -> NDArray[np.uint8]:
        """In a file named by what is in it, and taken as it is when it is there."""
        name = hashlib.sha256("\n".join((preprocessing.pixels_id, *names)).encode()).hexdigest()[:16]
        place, report, total = self._spill / f"{name}.npy", self._on_image, records.height
        if not place.exists():
            self._spill.mkdir(parents=True, exist_ok=True)
            heard = (lambda done: report(done, total)) if report else None
            paths = [self._root / path for path in records["path"]]
            how = self._how(paths, preprocessing, boxes)
            return load_images_to(place, paths, preprocessing, boxes=boxes, reading=how, on_image=heard)
        mapped: NDArray[np.uint8] = np.load(place, mmap_mode="r")
        return mapped

    def _loaded(
        self,
        records: pl.DataFrame,
        boxes: Sequence[Box] | None,
        preprocessing: Preprocessing,
        *,
        of: int,
        after: int = 0,
    ) -> NDArray[np.uint8]:
        """Decoded, as number `after` and following of all `of` images."""
        report = self._on_image
        heard = (lambda n: report(after + n, of)) if report else None
        paths = [self._root / path for path in records["path"]]
        how = self._how(paths, preprocessing, boxes)
        return load_images(paths, preprocessing, boxes=boxes, reading=how, on_image=heard)

    def _how(self, paths: Sequence[Path], preprocessing: Preprocessing, boxes: Sequence[Box] | None) -> Reading:
        if self._reading is None:

            def read(row: int, decoder: Decoder) -> object:
                return load_image(paths[row], preprocessing, boxes[row] if boxes else None, decoder=decoder)

            self._reading, rates = choose_reading(read, len(paths))
            self._say(f"images are decoded by {self._reading.text} (measured: {described(rates)})")
        return self._reading

    def _cached(
        self,
        cache: PixelCache,
        names: Sequence[str],
        records: pl.DataFrame,
        boxes: Sequence[Box] | None,
        preprocessing: Preprocessing,
    ) -> NDArray[np.uint8]:
        done = 0

        def load(rows: Sequence[int]) -> NDArray[np.uint8]:
            nonlocal done
            some, some_boxes = records[rows], [boxes[row] for row in rows] if boxes else None
            for path, image_id in some.select("path", "image_id").iter_rows():
                _require_unchanged(self._root / path, image_id)
            images = self._loaded(some, some_boxes, preprocessing, of=records.height, after=done)
            done += len(rows)
            return images

        return cache.images(names, preprocessing, load)


def _require_unchanged(path: Path, image_id: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != image_id:
        raise ChangedImage(
            f"{path}: its SHA-256 is now {found[:12]}..., its record was made of {image_id[:12]}...; "
            "materialize the records again"
        )
