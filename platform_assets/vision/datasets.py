"""The decoded images of one part in memory, and the batches of one epoch as a function of seed, epoch and image."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from platform_assets.vision.cropping import BadBox
from platform_assets.vision.decoding import MAX_PIXELS, UnreadableImage
from platform_assets.vision.formats.boxes import Box
from platform_assets.vision.preprocessing import Preprocessing, pixels_of_file
from platform_assets.vision.train_options import Augmentation

# First words of the two families of random streams, so that no image's stream is an epoch's order.
_ORDER_STREAM, _IMAGE_STREAM = 0, 1
_CROP_AREA = (0.5, 1.0)
_CROP_ASPECT = (3 / 4, 4 / 3)
_MEMORY_SHARE = 0.6


class ImagesDoNotFit(ValueError):
    """The decoded images of a part need more memory than this machine should give."""


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
    """Augmented `images_bchw` uint8 and `labels_b`, with their rows in the part."""

    images_bchw: torch.Tensor
    labels_b: torch.Tensor
    rows: NDArray[np.int64]


def load_images(
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    boxes: Sequence[Box] | None = None,
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_image: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """Decode and resize to images_nchw, in the order of `paths`. `on_image` hears how many are done.

    `boxes`, one a path, are needed where the preprocessing has a `box_margin`. Raises ImagesDoNotFit before reading when
    they would take more than 60 % of the memory, and UnreadableImage and BadBox with the path.
    """
    side = preprocessing.image_size_px
    require_memory(len(paths), side)
    images_nchw = np.empty((len(paths), 3, side, side), dtype=np.uint8)

    def load(row: int) -> None:
        images_nchw[row] = _load(paths[row], preprocessing, boxes[row] if boxes else None, max_pixels)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(load, range(len(paths))), start=1):
            if on_image is not None:
                on_image(done)
    return images_nchw


def _load(path: Path, preprocessing: Preprocessing, box: Box | None, max_pixels: int) -> NDArray[np.uint8]:
    try:
        return pixels_of_file(path.read_bytes(), preprocessing, box, max_pixels=max_pixels)
    except BadBox as error:
        raise BadBox(f"{path}: {error}") from error
    except UnreadableImage as error:
        error.add_note(f"in {path}; it was readable when the records were made, materialize them again")
        raise


def require_memory(images: int, side: int) -> None:
    """Raises ImagesDoNotFit when the decoded images would take more than 60 % of the memory."""
    needed = images * 3 * side * side
    limit = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _MEMORY_SHARE)
    if needed > limit:
        raise ImagesDoNotFit(
            f"{images} images at image_size_px {side} take {needed / 1e9:.1f} GB decoded, over the limit of "
            f"{limit / 1e9:.1f} GB on this machine; lower image_size_px to {math.isqrt(limit // (3 * images))} or less"
        )


def epoch_batches(
    part: LabelledImages, *, batch_size: int, seed: int, epoch: int, augmentation: Augmentation
) -> Iterator[Batch]:
    """One pass in random order; sizes differ by one at most, so that no batch is too small for its statistics."""
    order = np.random.default_rng((_ORDER_STREAM, seed, epoch)).permutation(len(part))
    for rows in np.array_split(order, batches_per_epoch(len(part), batch_size)):
        images = [_augmented(part.images_nchw[row], augmentation, seed, epoch, int(row)) for row in rows]
        yield Batch(torch.stack(images), torch.from_numpy(part.labels_n[rows]), rows)


def batches_per_epoch(images: int, batch_size: int) -> int:
    return math.ceil(images / batch_size)


def _augmented(
    image_chw: NDArray[np.uint8], augmentation: Augmentation, seed: int, epoch: int, row: int
) -> torch.Tensor:
    generator = np.random.default_rng((_IMAGE_STREAM, seed, epoch, row))
    return augment(torch.from_numpy(image_chw), augmentation, generator)


def augment(image_chw: torch.Tensor, augmentation: Augmentation, generator: np.random.Generator) -> torch.Tensor:
    """One square uint8 image, transformed at random; the same generator state gives the same pixels."""
    if augmentation == "none":
        return image_chw
    if augmentation == "crop_flip":
        image_chw = _resized_crop(image_chw, generator)
    if augmentation == "dihedral":
        image_chw = image_chw.rot90(int(generator.integers(4)), (1, 2))
    return image_chw.flip(2) if generator.random() < 0.5 else image_chw


def _resized_crop(image_chw: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """A random box of half to all of the area, stretched to the full size (Szegedy et al. 2015, with milder bounds)."""
    side = image_chw.shape[1]
    area = generator.uniform(*_CROP_AREA) * side * side
    aspect = math.exp(generator.uniform(*np.log(_CROP_ASPECT)))
    height = min(side, round(math.sqrt(area / aspect)))
    width = min(side, round(math.sqrt(area * aspect)))
    top = int(generator.integers(side - height + 1))
    left = int(generator.integers(side - width + 1))
    box_1chw = image_chw[None, :, top : top + height, left : left + width]
    return torch.nn.functional.interpolate(box_1chw, size=(side, side), mode="bilinear", align_corners=False)[0]
