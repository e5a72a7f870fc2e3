"""The decoded images of one part, in memory or in a mapped file, and the batches that one epoch makes of them."""

from __future__ import annotations

import math
import os
import shutil
import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from platform_assets.vision.formats.boxes import Box
from platform_assets.vision.images.cropping import BadBox
from platform_assets.vision.images.decoding import MAX_PIXELS, Decoder, UnreadableImage
from platform_assets.vision.images.image_reading import Reading
from platform_assets.vision.images.prefetch import made_ahead
from platform_assets.vision.recipes.preprocessing import Preprocessing, pixels_of_file
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.augmentation import augment, mix
from platform_assets.vision.training.batch_plan import global_batches, share_of_rank
from platform_assets.vision.training.losses import draw_order

# First words of the families of random streams, so that no image's stream is an epoch's order.
_ORDER_STREAM, _IMAGE_STREAM, _MIX_STREAM = 0, 1, 2
_MEMORY_SHARE = 0.6
_CHUNK_BYTES = 64 << 20


class ImagesDoNotFit(ValueError):
    """The decoded images of a part need more memory than this machine should give, or more disk than is free."""


@dataclass(frozen=True)
class LabelledImages:
    """One part: `images_nchw` uint8 at model size, `labels_n` int64 and the image ids, row by row."""

    image_ids: tuple[str, ...]
    images_nchw: NDArray[np.uint8]
    labels_n: NDArray[np.int64]

    def __post_init__(self) -> None:
        lengths = (len(self.image_ids), len(self.images_nchw), len(self.labels_n))
        if len(set(lengths)) != 1 or lengths[0] == 0:
            raise ValueError(
                f"ids, images and labels have lengths {lengths}; one of each per image, and one image, are needed"
            )

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True)
class Batch:
    """Augmented `images_bchw` and `labels_b`, with their rows in the part.

    Images are uint8; mixed ones are float32 on the same 0 to 255 scale and have `shares_bk`, the classes they show.
    """

    images_bchw: torch.Tensor
    labels_b: torch.Tensor
    rows: NDArray[np.int64]
    shares_bk: torch.Tensor | None = None


def load_images(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    boxes: Sequence[Box] | None = None,
    reading: Reading | None = None,
    max_pixels: int = MAX_PIXELS,
    on_image: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """Decode and resize to images_nchw, in the order of `paths`. `on_image` hears how many are done.

    `boxes`, one a path, are needed where the preprocessing has a `box_margin`. Without a `reading` all cores read. Raises
    ImagesDoNotFit before reading when they would take more than 60 % of the memory, and UnreadableImage and BadBox with
    the path.
    """
    reading = reading or Reading("libjpeg-turbo", os.cpu_count() or 1)
    side = preprocessing.image_size_px
    require_memory(len(paths), side)
    images_nchw = np.empty((len(paths), 3, side, side), dtype=np.uint8)

    def load(row: int) -> None:
        box = boxes[row] if boxes else None
        images_nchw[row] = load_image(paths[row], preprocessing, box, max_pixels=max_pixels, decoder=reading.decoder)

    with ThreadPoolExecutor(reading.threads) as pool:
        for done, _ in enumerate(pool.map(load, range(len(paths))), start=1):
            if on_image is not None:
                on_image(done)
    return images_nchw


def load_image(
    path: Path,
    preprocessing: Preprocessing,
    box: Box | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    decoder: Decoder = "libjpeg-turbo",
) -> NDArray[np.uint8]:
    """pixels_chw of one file; UnreadableImage and BadBox name it."""
    try:
        return pixels_of_file(path.read_bytes(), preprocessing, box, max_pixels=max_pixels, decoder=decoder)
    except BadBox as error:
        raise BadBox(f"{path}: {error}") from error
    except UnreadableImage as error:
        error.add_note(f"in {path}; it was readable when the records were made, materialize them again")
        raise


def load_images_to(
    path: Path,
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    boxes: Sequence[Box] | None = None,
    reading: Reading | None = None,
    max_pixels: int = MAX_PIXELS,
    on_image: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """The images_nchw of `load_images` in the .npy file `path`, mapped read-only: for parts that do not fit in memory.

    The file appears whole or not at all and takes the place of one that was there. Raises ImagesDoNotFit before reading
    when the disk has no room for it, and what `load_images` raises for a file.
    """
    side = preprocessing.image_size_px
    shape = (len(paths), 3, side, side)
    _require_disk(path.parent, math.prod(shape), len(paths))
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    step = max(1, _CHUNK_BYTES // (3 * side * side))
    try:
        with beside.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for start in range(0, len(paths), step):
                file.write(
                    load_images(
                        paths[start : start + step],
                        preprocessing,
                        boxes=boxes[start : start + step] if boxes else None,
                        reading=reading,
                        max_pixels=max_pixels,
                        on_image=partial(_after, on_image, start) if on_image else None,
                    ).data
                )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped


def _after(on_image: Callable[[int], None], before: int, done: int) -> None:
    on_image(before + done)


def _require_disk(folder: Path, needed: int, images: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ImagesDoNotFit(
            f"{images} images take {needed / 1e9:.1f} GB decoded and {folder} has {free / 1e9:.1f} GB free; "
            "make room there or lower image_size_px"
        )


def fits_in_memory(images: int, side: int) -> bool:
    """Whether the decoded images take at most 60 % of the memory; others belong in a file, by `load_images_to`."""
    return images * 3 * side * side <= _memory_limit()


def _memory_limit() -> int:
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _MEMORY_SHARE)


def require_memory(images: int, side: int) -> None:
    """Raises ImagesDoNotFit when the decoded images would take more than 60 % of the memory."""
    if not fits_in_memory(images, side):
        needed, limit = images * 3 * side * side, _memory_limit()
        raise ImagesDoNotFit(
            f"{images} images at image_size_px {side} take {needed / 1e9:.1f} GB decoded, over the limit of "
            f"{limit / 1e9:.1f} GB on this machine; lower image_size_px to {math.isqrt(limit // (3 * images))} or less"
        )


def epoch_batches(
    part: LabelledImages,
    *,
    recipe: TrainRecipe,
    seed: int,
    epoch: int,
    num_classes: int,
    start_batch: int = 0,
    rank: int = 0,
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """The batches of one pass from number `start_batch` on, as process `rank` of `recipe.devices` sees them.

    An epoch is `batches_per_epoch` steps whose sizes differ by one at most, a step `recipe.accumulate` batches and a
    batch one share a rank; those sizes too differ by one at most, and none is 0. All ranks' shares together are the
    batch of a single process, mixed pairs included. What is in a batch follows from seed, epoch and image alone,
    whatever the start, the ranks and the workers: threads that make batches ahead. Close it to stop them early.

    Raises TooFewImages; an error on an image carries the image's id as a note.
    """
    assert 0 <= rank < recipe.devices, f"rank {rank} of {recipe.devices} devices"
    order_n = draw_order(part.labels_n, recipe, np.random.default_rng((_ORDER_STREAM, seed, epoch)))
    maker = _Maker(part, recipe, (seed, epoch), num_classes, rank)
    batches = enumerate(global_batches(order_n, recipe, steps=batches_per_epoch(len(part), recipe)))
    return made_ahead(maker.batch, islice(batches, start_batch, None), workers=workers)


def batches_per_epoch(images: int, recipe: TrainRecipe) -> int:
    """Optimizer steps of one pass; each is `recipe.accumulate` batches of `epoch_batches`."""
    return math.ceil(images / recipe.batch_size)


@dataclass(frozen=True)
class _Maker:
    """Makes the batches of one epoch, in any order and any thread."""

    part: LabelledImages
    recipe: TrainRecipe
    stream: tuple[int, int]
    num_classes: int
    rank: int

    def batch(self, numbered: tuple[int, NDArray[np.int64]], unwanted: Callable[[], bool]) -> Batch:
        number, drawn = numbered
        size = drawn.shape[1]
        own = made = share_of_rank(size, self.rank, self.recipe.devices)
        if self.recipe.mixes:
            made = np.union1d(own, size - 1 - own)
        images_bchw = torch.stack([self._image(row, before, unwanted) for row, before in drawn[:, made].T.tolist()])
        labels_b, rows = torch.from_numpy(self.part.labels_n[drawn[0, made]]), drawn[0, own]
        if not self.recipe.mixes:
            return Batch(images_bchw, labels_b, rows)
        generator = np.random.default_rng((_MIX_STREAM, *self.stream, number))
        mixed_bchw, shares_bk = mix(
            images_bchw, labels_b, num_classes=self.num_classes, options=self.recipe, generator=generator
        )
        kept = slice(None) if len(made) == len(own) else torch.from_numpy(np.isin(made, own))
        return Batch(mixed_bchw[kept], labels_b[kept], rows, shares_bk[kept])

    def _image(self, row: int, times_before: int, unwanted: Callable[[], bool]) -> torch.Tensor:
        if unwanted():
            raise CancelledError
        again = (times_before,) if times_before else ()
        generator = np.random.default_rng((_IMAGE_STREAM, *self.stream, row, *again))
        try:
            return augment(self._pixels(row), self.recipe, generator)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            error.add_note(f"on image {self.part.image_ids[row]}, row {row} of its part")
            raise

    def _pixels(self, row: int) -> torch.Tensor:
        """torch takes no read-only memory, so that a mapped file's image is copied; nothing writes to the other ones."""
        image_chw = self.part.images_nchw[row]
        return torch.from_numpy(image_chw if image_chw.flags.writeable else np.array(image_chw))
