"""How alike small grey pictures of images are, apart from what the images of their set have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from platform_assets.vision.images.image_files import ReadBytes

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

OnProgress = Callable[[int, int], None]


class View(NamedTuple):
    """A picture less a fraction of its sides, of which `down` is taken off at the top and `right` at the left."""

    fraction: float = 0.0
    down: float = 0.5
    right: float = 0.5


CENTRAL = tuple(View(fraction) for fraction in (0.0, 0.02, 0.04, 0.06, 0.08))
ANYWHERE = CENTRAL + tuple(
    View(fraction, down, right) for fraction in (0.03, 0.06, 0.09) for down in (0.0, 1.0) for right in (0.0, 1.0)
)

_SIDE_PX = 32
_SAMPLE = 1024
_IMAGES_PER_COMPONENT = 32
_PAIRS_AT_ONCE = 512
_MOST_THREADS = 8  # 2026-11: each of those that compare takes 30 MB
_IMAGES_AT_ONCE = 64


def with_similarity(
    pairs: pl.DataFrame,
    images: pl.DataFrame,
    read: ReadBytes,
    *,
    views: Sequence[View],
    mirrored: bool = False,
    on_progress: OnProgress | None = None,
) -> pl.DataFrame:
    """The pairs (image_id, other_id) with their similarity: the best correlation of one picture whole, and where
    `mirrored` its mirror image too, with a view of the other, either way round, -1 to 1.

    What the pictures of the set have in common is taken off first. `images` has one row an image, sorted by image_id,
    with its path; `read` gives the bytes of a path. `on_progress` gets (pictures read, pictures in all), then
    (pairs compared, pairs in all).
    """
    import polars as pl

    if pairs.is_empty():
        return pairs.with_columns(similarity=pl.lit(None, pl.Float64))
    wanted = set(pairs["image_id"]).union(pairs["other_id"])
    # Ids are hashes of bytes: the first of them are a random sample that is always the same.
    sample = images.head(_SAMPLE)
    looked_at = images.filter(pl.col("image_id").is_in(wanted | set(sample["image_id"])))
    thumbnails = _thumbnails(list(looked_at["path"]), read, on_progress)
    row_of = {image_id: row for row, image_id in enumerate(looked_at["image_id"])}
    common = _common_structure(thumbnails[[row_of[image_id] for image_id in sample["image_id"]]])
    rows = [[row_of[image_id] for image_id in pairs[side]] for side in ("image_id", "other_id")]
    compared = _similarities(thumbnails, rows, common, views, mirrored=mirrored)
    similarity = list[float]()
    for block in compared:
        similarity.extend(block)
        if on_progress is not None:
            on_progress(len(similarity), pairs.height)
    return pairs.with_columns(similarity=pl.Series(similarity, dtype=pl.Float64))


def _thumbnails(paths: list[str], read: ReadBytes, on_progress: OnProgress | None) -> NDArray[np.uint8]:
    """Grey [n, 32, 32], each pixel the mean of the area that it covers."""
    import cv2
    import numpy as np

    from platform_assets.vision.images.image_facts import decode_grey

    thumbnails_nhw = np.empty((len(paths), _SIDE_PX, _SIDE_PX), dtype=np.uint8)

    def fill(start: int) -> int:
        for row, path in enumerate(paths[start : start + _IMAGES_AT_ONCE], start):
            grey_hw = decode_grey(read(path))
            # 2026-11, 41,000 pictures of 64 px in two threads: 2.7 s, and 6.0 s with Pillow's box filter.
            thumbnails_nhw[row] = cv2.resize(grey_hw, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
        return row + 1

    with _workers() as pool:
        for done in pool.map(fill, range(0, len(paths), _IMAGES_AT_ONCE)):
            if on_progress is not None:
                on_progress(done, len(paths))
    return thumbnails_nhw


def _common_structure(thumbnails_nhw: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """What images of one set share, as mean [d] and principal components [d, k]: the grid of a solar cell, a bed of an X-ray.

    One component for 32 images: a set too small to say has none, and then nothing is taken off.
    """
    import numpy as np
    from scipy.linalg import eigh

    views_nd = unit_rows(_flattened(thumbnails_nhw.astype(np.float32)))
    count = len(views_nd) // _IMAGES_PER_COMPONENT
    if not count:
        return np.zeros(views_nd.shape[1], np.float32), np.zeros((views_nd.shape[1], 0), np.float32)
    mean_d = views_nd.mean(axis=0)
    centred_nd = views_nd - mean_d
    last = len(views_nd) - 1
    # 2026-11, one BLAS thread: all 1,024 vectors take 0.22 s of CPU, the 32 that are wanted 0.05 s.
    _, left_nk = eigh(centred_nd @ centred_nd.T, subset_by_index=(last - count + 1, last))
    components_kd = np.asarray(left_nk.T @ centred_nd, dtype=np.float32)
    return mean_d, unit_rows(components_kd).T


def _similarities(
    thumbnails_nhw: NDArray[np.uint8],
    rows: list[list[int]],
    common: tuple[Floats, Floats],
    views: Sequence[View],
    *,
    mirrored: bool,
) -> Iterator[Floats]:
    """Those of a block of pairs after the other."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    pairs = np.array(rows, dtype=np.int64)

    def best(start: int) -> Floats:
        block = pairs[:, start : start + _PAIRS_AT_ONCE]
        images, places = np.unique(block, return_inverse=True)
        one, other = places.reshape(2, -1)
        pictures_nhw = thumbnails_nhw[images].astype(np.float32)
        whole = [_residual(pictures_nhw, common)]
        if mirrored:
            whole.append(_residual(pictures_nhw[:, :, ::-1], common))
        found = np.full(block.shape[1], -1.0)
        for view in views:
            seen_nd = _residual(_seen(pictures_nhw, view), common)
            for whole_nd in whole:
                for left, right in ((one, other), (other, one)):
                    found = np.maximum(found, np.einsum("nd,nd->n", whole_nd[left], seen_nd[right]))
        return found

    with threadpool_limits(1, user_api="blas"), _workers(_MOST_THREADS) as pool:
        yield from pool.map(best, range(0, pairs.shape[1], _PAIRS_AT_ONCE))


def _workers(most: int | None = None) -> ThreadPoolExecutor:
    cores = os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, most or cores), thread_name_prefix="picture_similarity")


def _residual(pictures_nhw: Floats, common: tuple[Floats, Floats]) -> Floats:
    mean_d, components_dk = common
    centred_nd = unit_rows(_flattened(pictures_nhw)) - mean_d
    shared_nd = (centred_nd @ components_dk) @ components_dk.T
    return unit_rows(centred_nd - shared_nd)


def _seen(pictures_nhw: Floats, view: View) -> Floats:
    """What a view shows of each picture, at the same size (linear interpolation)."""
    import numpy as np

    side = pictures_nhw.shape[1]

    def weights(cut: float) -> Floats:
        places = (np.arange(side) + 0.5) * (1 - view.fraction) + side * view.fraction * cut - 0.5
        distance = np.abs(np.clip(places, 0, side - 1)[:, None] - np.arange(side))
        return np.asarray(np.maximum(0, 1 - distance), dtype=np.float32)

    return np.asarray(weights(view.down) @ pictures_nhw @ weights(view.right).T)


def _flattened(pictures_nhw: Floats) -> Floats:
    import numpy as np

    flat_nd = pictures_nhw.reshape(len(pictures_nhw), -1)
    return np.asarray(flat_nd - flat_nd.mean(axis=1, keepdims=True))


def unit_rows(rows_nd: Floats) -> Floats:
    """Rows of length one; a row of zeros stays."""
    import numpy as np

    return np.asarray(rows_nd / np.maximum(np.linalg.norm(rows_nd, axis=1, keepdims=True), 1e-6), dtype=np.float32)
