"""Images to vectors: decoding in threads, overlapped with one engine's inference. Nothing is stored here."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import polars as pl
from numpy.typing import NDArray

from platform_assets.vision.formats.boxes import Box
from platform_assets.vision.images.cropping import BadBox
from platform_assets.vision.images.decoding import UnreadableImage
from platform_assets.vision.networks.engines import Engine
from platform_assets.vision.recipes.preprocessing import Preprocessing, pixels_of_file

ImageLoader = Callable[[], bytes]
IdAndPixels = tuple[str, NDArray[np.uint8]]

# Batches of decoded images that wait for the engine: one to take, one to fill, so that memory stays bounded.
BATCHES_AHEAD = 2


class ImageNotEmbedded(ValueError):
    """An image has no vector: its bytes changed since they were scanned, cannot be read, or give NaN or infinity."""


def embed(
    images: Iterable[tuple[str, ImageLoader]],
    preprocessing: Preprocessing,
    engine: Engine,
    *,
    boxes: Mapping[str, Box] | None = None,
    threads: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> pl.DataFrame:
    """One row per image id, in the order given: image_id, vector Array(f32, d). At least one image is needed.

    `images` are (image_id, loader of its bytes); `boxes`, by image id, are needed where the preprocessing has a
    `box_margin`; `on_progress` gets the number of images done. Raises ImageNotEmbedded, MissingBox.
    """
    frames = []
    done = 0
    for frame in embed_batches(images, preprocessing, engine, boxes=boxes, threads=threads):
        frames.append(frame)
        done += frame.height
        if on_progress is not None:
            on_progress(done)
    return pl.concat(frames)


def embed_batches(
    images: Iterable[tuple[str, ImageLoader]],
    preprocessing: Preprocessing,
    engine: Engine,
    *,
    boxes: Mapping[str, Box] | None = None,
    threads: int = 2,
) -> Iterator[pl.DataFrame]:
    """As `embed`, one frame per batch of the engine, so that a caller can keep what is done when it is stopped."""

    def pixels_of(image_id: str, load: ImageLoader) -> IdAndPixels:
        return image_id, _pixels(image_id, load, preprocessing, boxes.get(image_id) if boxes else None)

    ahead = BATCHES_AHEAD * engine.batch_size
    decoded = _in_threads(pixels_of, _without_repeats(images), threads=threads, ahead=ahead)
    while batch := list(islice(decoded, engine.batch_size)):
        image_ids = [image_id for image_id, _ in batch]
        yield vectors_frame(image_ids, engine.run(np.stack([pixels for _, pixels in batch])))


def vectors_frame(image_ids: list[str], features_bd: NDArray[np.float32]) -> pl.DataFrame:
    """image_id str, vector Array(f32, d); refuses NaN and infinity by the id of the image."""
    broken = ~np.isfinite(features_bd).all(axis=1)
    if broken.any():
        first = image_ids[int(broken.argmax())]
        raise ImageNotEmbedded(
            f"image {first}: its vector is not finite ({broken.sum()} such in this batch); check the backbone's weights"
        )
    vectors = pl.Series("vector", features_bd, dtype=pl.Array(pl.Float32, features_bd.shape[1]))
    return pl.DataFrame([pl.Series("image_id", image_ids, dtype=pl.String), vectors])


def _pixels(image_id: str, load: ImageLoader, preprocessing: Preprocessing, box: Box | None) -> NDArray[np.uint8]:
    data = load()
    found = hashlib.sha256(data).hexdigest()
    if found != image_id:
        raise ImageNotEmbedded(f"image {image_id}: its file now has SHA-256 {found}; scan the source again")
    try:
        return pixels_of_file(data, preprocessing, box)
    except (UnreadableImage, BadBox) as error:
        raise ImageNotEmbedded(f"image {image_id}: {error}; scan the source again") from error


def _without_repeats(images: Iterable[tuple[str, ImageLoader]]) -> Iterator[tuple[str, ImageLoader]]:
    seen: set[str] = set()
    for image_id, load in images:
        if image_id not in seen:
            seen.add(image_id)
            yield image_id, load


def _in_threads(
    work: Callable[[str, ImageLoader], IdAndPixels],
    images: Iterable[tuple[str, ImageLoader]],
    *,
    threads: int,
    ahead: int,
) -> Iterator[IdAndPixels]:
    """Results in the order of the images, at most `ahead` of them finished or under way before they are taken."""
    waiting: deque[Future[IdAndPixels]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for image_id, load in images:
            waiting.append(pool.submit(work, image_id, load))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
