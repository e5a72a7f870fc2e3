"""Images to vectors: order, exactness, bounded memory, and images that cannot be embedded."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image

from platform_assets.vision.networks.embedding import (
    BATCHES_AHEAD,
    ImageLoader,
    ImageNotEmbedded,
    embed,
    embed_batches,
    vectors_frame,
)
from platform_assets.vision.networks.engines import Engine
from platform_assets.vision.recipes.preprocessing import Preprocessing

PIXELS = Preprocessing(image_size_px=8, resize="squash", interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
BATCH = 4


def _mean_colour(images_bchw_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images_bchw_u8.mean(axis=(2, 3), dtype=np.float32)


ENGINE = Engine(name="torch", batch_size=BATCH, infer=_mean_colour)


def _png(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _image(data: bytes) -> tuple[str, ImageLoader]:
    return hashlib.sha256(data).hexdigest(), lambda: data


COLOURS = [(10 * i, 255 - 10 * i, i) for i in range(11)]
IMAGES = [_image(_png(colour)) for colour in COLOURS]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [1, BATCH, 11])
def test_embed__one_row_per_image_in_the_order_given(count: int, threads: int) -> None:
    progress: list[int] = []
    frame = embed(IMAGES[:count], PIXELS, ENGINE, threads=threads, on_progress=progress.append)
    assert frame.schema == pl.Schema({"image_id": pl.String(), "vector": pl.Array(pl.Float32(), 3)})
    assert frame["image_id"].to_list() == [image_id for image_id, _ in IMAGES[:count]]
    assert frame["vector"].to_list() == [list(colour) for colour in COLOURS[:count]]
    assert progress == [*range(BATCH, count, BATCH), count]


def test_embed__an_image_that_comes_twice_is_embedded_once() -> None:
    frame = embed([*IMAGES[:3], *IMAGES[:3]], PIXELS, ENGINE)
    assert frame["image_id"].to_list() == [image_id for image_id, _ in IMAGES[:3]]


def test_embed_batches__gives_what_is_done_before_a_bad_image() -> None:
    frames = embed_batches([*IMAGES[:5], _image(b"no picture")], PIXELS, ENGINE)
    assert next(frames).height == BATCH
    with pytest.raises(ImageNotEmbedded):
        next(frames)


def test_embed__decodes_ahead_but_never_the_whole_set() -> None:
    taken = 0

    def counted() -> Iterator[tuple[str, ImageLoader]]:
        nonlocal taken
        for index in range(1000):
            taken += 1
            yield _image(_png((index % 256, index // 256, 0)))

    frames = embed_batches(counted(), PIXELS, ENGINE)
    next(frames)
    assert BATCH < taken <= BATCH * (BATCHES_AHEAD + 1)
    frames.close()


def test_embed__decoding_goes_on_while_the_engine_computes() -> None:
    # The engine's first batch waits for the decoding of the second: without overlap it would wait for ever.
    second_batch_decoded = threading.Event()

    def slow_load(image: tuple[str, ImageLoader]) -> ImageLoader:
        def load() -> bytes:
            second_batch_decoded.set()
            return image[1]()

        return load

    def waiting_infer(images_bchw_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert second_batch_decoded.wait(timeout=20)
        return _mean_colour(images_bchw_u8)

    images = [*IMAGES[: BATCH * 2 - 1], (IMAGES[BATCH * 2 - 1][0], slow_load(IMAGES[BATCH * 2 - 1]))]
    engine = Engine(name="torch", batch_size=BATCH, infer=waiting_infer)
    assert embed(images, PIXELS, engine, threads=1).height == BATCH * 2


def test_embed__threads_end_with_the_call() -> None:
    before = threading.active_count()
    embed(IMAGES, PIXELS, ENGINE)
    with pytest.raises(ImageNotEmbedded):
        embed([_image(b"no picture"), *IMAGES], PIXELS, ENGINE)
    assert threading.active_count() == before


def _changed_file() -> tuple[str, ImageLoader]:
    return IMAGES[0][0], lambda: _png((1, 2, 3))


def _damaged_file() -> tuple[str, ImageLoader]:
    return _image(_png((1, 2, 3))[:-30])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_changed_file, r"its file now has SHA-256 [0-9a-f]{64}; scan the source again"),
        (_damaged_file, "scan the source"),
    ],
)
def test_embed__bad_image_is_named(make: Callable[[], tuple[str, ImageLoader]], message: str) -> None:
    image = make()
    with pytest.raises(ImageNotEmbedded, match=f"image {image[0]}: .*{message}"):
        embed([*IMAGES[1:], image], PIXELS, ENGINE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_frame__not_finite_is_refused_by_image(bad: float) -> None:
    features = np.ones((3, 2), np.float32)
    features[1, 1] = bad
    with pytest.raises(ImageNotEmbedded, match=r"image b: its vector is not finite \(1 such"):
        vectors_frame(["a", "b", "c"], features)
