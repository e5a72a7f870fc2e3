"""Images that show the same picture in other bytes: found by perceptual hash and pixels, or by vectors, and grouped."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

ReadBytes = Callable[[str], bytes]

HASH_LIMIT = 11
"""Bits of 64. 2026-11, planted copies: bench_near_duplicates.py. Up to 15 finds more of strong crops, in five times the time."""
MIN_SIMILARITY = 0.7
FLAT_STD = 0.02
"""A picture whose channels all vary less (of 1) has a hash of rounding errors, and none is compared."""
_SIDE_PX = 32
_CROPS = (0.0, 0.02, 0.04, 0.06, 0.08)
_SAMPLE = 1024
_IMAGES_PER_COMPONENT = 32
_PAIRS_AT_ONCE = 2048
_MOST_THREADS = 8  # 2026-11: each of those that compare takes 107 MB
_ROWS_AT_ONCE = 1024
_IMAGES_AT_ONCE = 64


def near_duplicates(
    records: pl.DataFrame, read: ReadBytes, *, hash_limit: int = HASH_LIMIT, min_similarity: float = MIN_SIMILARITY
) -> pl.DataFrame:
    """One row a pair of near duplicates: image_id < other_id, distance (bits), similarity (-1 to 1).

    Resized, re-encoded, brightened and centrally cropped (8 % of a side) copies are found; mirrored, turned and
    off-centre ones are not. Pairs within `hash_limit` bits are looked at again: their pixels, less what the dataset's
    images have in common, must correlate. `read` gives the bytes of a path. Raises TooManyPairs.
    """
    import polars as pl

    images = records.unique("image_id", keep="first").sort("image_id")
    pairs = _hash_candidates(images, hash_limit)
    if pairs.is_empty():
        return pairs.with_columns(similarity=pl.lit(None, pl.Float64))
    wanted = set(pairs["image_id"]).union(pairs["other_id"])
    # Ids are hashes of bytes: the first of them are a random sample that is always the same.
    sample = images.head(_SAMPLE)
    looked_at = images.filter(pl.col("image_id").is_in(wanted | set(sample["image_id"])))
    thumbnails = _thumbnails(list(looked_at["path"]), read)
    row_of = {image_id: row for row, image_id in enumerate(looked_at["image_id"])}
    common = _common_structure(thumbnails[[row_of[image_id] for image_id in sample["image_id"]]])
    rows = [[row_of[image_id] for image_id in pairs[side]] for side in ("image_id", "other_id")]
    similarity = _similarities(thumbnails, rows, common)
    found = pairs.with_columns(similarity=pl.Series(similarity, dtype=pl.Float64))
    return found.filter(pl.col("similarity") >= min_similarity)


def near_by_vectors(vectors: pl.DataFrame, min_cosine: float, *, most: int = 20) -> pl.DataFrame:
    """One row a pair of images whose vectors, less their mean, have at least that cosine: image_id < other_id, similarity.

    `vectors` has image_id and vector. Of each image its `most` nearest are looked at; memory is one block of rows.
    """
    import numpy as np
    import polars as pl

    vectors = vectors.unique("image_id").sort("image_id")
    vectors_nd = vectors["vector"].to_numpy()
    unit_nd = _unit(vectors_nd - vectors_nd.mean(axis=0))
    nearest = min(most, len(unit_nd) - 1)
    found: set[tuple[int, int]] = set()
    for start in range(0, len(unit_nd), _ROWS_AT_ONCE):
        cosine_bn = unit_nd[start : start + _ROWS_AT_ONCE] @ unit_nd.T
        block = np.arange(len(cosine_bn))
        cosine_bn[block, start + block] = -np.inf
        if nearest < 1:
            continue
        columns_bk = np.argpartition(-cosine_bn, nearest - 1, axis=1)[:, :nearest]
        near = np.take_along_axis(cosine_bn, columns_bk, axis=1) >= min_cosine
        rows, places = np.nonzero(near)
        others = columns_bk[rows, places]
        found.update(
            zip(np.minimum(rows + start, others).tolist(), np.maximum(rows + start, others).tolist(), strict=True)
        )
    rows_i, rows_j = np.array(sorted(found), dtype=np.int64).reshape(-1, 2).T
    similarity = np.einsum("nd,nd->n", unit_nd[rows_i], unit_nd[rows_j]).astype(np.float64)
    return pl.DataFrame(
        {"image_id": vectors["image_id"][rows_i], "other_id": vectors["image_id"][rows_j], "similarity": similarity}
    )


def near_duplicate_groups(pairs: pl.DataFrame) -> pl.DataFrame:
    """image_id, near_group of every image that is in a pair; the group is named by the smallest id in it.

    Groups are the connected components of the pairs: a chain of look-alikes is one group.
    """
    import numpy as np
    import polars as pl
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    image_ids = pl.concat([pairs["image_id"], pairs["other_id"].rename("image_id")]).unique().sort()
    if image_ids.is_empty():
        return pl.DataFrame(schema={"image_id": pl.String, "near_group": pl.String})
    rows = np.searchsorted(image_ids.to_numpy(), pairs["image_id"].to_numpy())
    others = np.searchsorted(image_ids.to_numpy(), pairs["other_id"].to_numpy())
    edges = coo_array((np.ones(len(rows)), (rows, others)), shape=(len(image_ids), len(image_ids)))
    component = pl.Series("component", connected_components(edges, directed=False)[1])
    grouped = pl.DataFrame([image_ids, component])
    return grouped.select("image_id", near_group=pl.col("image_id").min().over("component"))


def with_near_group(records: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """The records, in their order, with the column `near_group`; null for an image without near duplicates."""
    return records.drop("near_group", strict=False).join(groups, on="image_id", how="left", maintain_order="left")


def _hash_candidates(images: pl.DataFrame, limit: int) -> pl.DataFrame:
    import numpy as np
    import polars as pl

    from platform_assets.vision.quality.hash_pairs import hash_pairs

    varied = images.filter(pl.col("pixel_std").arr.max() >= FLAT_STD)
    hashes = np.array([int(phash, 16) for phash in varied["phash"]], dtype=np.uint64)
    rows_i, rows_j, distance = hash_pairs(hashes, limit)
    image_ids = varied["image_id"]
    return pl.DataFrame({"image_id": image_ids[rows_i], "other_id": image_ids[rows_j], "distance": distance})


def _thumbnails(paths: list[str], read: ReadBytes) -> NDArray[np.uint8]:
    """Grey [n, 32, 32], each pixel the mean of the area that it covers."""
    import numpy as np
    from PIL import Image

    from platform_assets.vision.images.image_facts import decode_grey

    thumbnails_nhw = np.empty((len(paths), _SIDE_PX, _SIDE_PX), dtype=np.uint8)

    def fill(start: int) -> None:
        for row, path in enumerate(paths[start : start + _IMAGES_AT_ONCE], start):
            picture = Image.fromarray(decode_grey(read(path)))
            thumbnails_nhw[row] = np.asarray(picture.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX))

    with _workers() as pool:
        list(pool.map(fill, range(0, len(paths), _IMAGES_AT_ONCE)))
    return thumbnails_nhw


def _common_structure(thumbnails_nhw: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """What images of one set share, as mean [d] and principal components [d, k]: the grid of a solar cell, a bed of an X-ray.

    One component for 32 images: a set too small to say has none, and then nothing is taken off.
    """
    import numpy as np
    from scipy.linalg import eigh

    views_nd = _unit(_flattened(thumbnails_nhw.astype(np.float32)))
    count = len(views_nd) // _IMAGES_PER_COMPONENT
    if not count:
        return np.zeros(views_nd.shape[1], np.float32), np.zeros((views_nd.shape[1], 0), np.float32)
    mean_d = views_nd.mean(axis=0)
    centred_nd = views_nd - mean_d
    last = len(views_nd) - 1
    # 2026-11, one BLAS thread: all 1,024 vectors take 0.22 s of CPU, the 32 that are wanted 0.05 s.
    _, left_nk = eigh(centred_nd @ centred_nd.T, subset_by_index=(last - count + 1, last))
    components_kd = np.asarray(left_nk.T @ centred_nd, dtype=np.float32)
    return mean_d, _unit(components_kd).T


def _similarities(
    thumbnails_nhw: NDArray[np.uint8], rows: list[list[int]], common: tuple[Floats, Floats]
) -> NDArray[np.float64]:
    """Of each pair the best correlation of one picture whole with the other cropped a little, either way round."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    pairs = np.array(rows, dtype=np.int64)
    best = np.full(pairs.shape[1], -1.0)

    def fill(start: int) -> None:
        block = slice(start, start + _PAIRS_AT_ONCE)
        images, places = np.unique(pairs[:, block], return_inverse=True)
        one, other = places.reshape(2, -1)
        pictures_nhw = thumbnails_nhw[images].astype(np.float32)
        whole_nd = _residual(pictures_nhw, common)
        for crop in _CROPS:
            cropped_nd = _residual(_cropped(pictures_nhw, crop), common)
            for left, right in ((one, other), (other, one)):
                found = np.einsum("nd,nd->n", whole_nd[left], cropped_nd[right])
                best[block] = np.maximum(best[block], found)

    with threadpool_limits(1, user_api="blas"), _workers(_MOST_THREADS) as pool:
        list(pool.map(fill, range(0, pairs.shape[1], _PAIRS_AT_ONCE)))
    return best


def _workers(most: int | None = None) -> ThreadPoolExecutor:
    cores = os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, most or cores), thread_name_prefix="near_duplicates")


def _residual(pictures_nhw: Floats, common: tuple[Floats, Floats]) -> Floats:
    mean_d, components_dk = common
    centred_nd = _unit(_flattened(pictures_nhw)) - mean_d
    shared_nd = (centred_nd @ components_dk) @ components_dk.T
    return _unit(centred_nd - shared_nd)


def _cropped(pictures_nhw: Floats, fraction: float) -> Floats:
    """The middle of each picture, a fraction of its sides less, at the same size (linear interpolation)."""
    import numpy as np

    side = pictures_nhw.shape[1]
    places = np.clip((np.arange(side) + 0.5) * (1 - fraction) + side * fraction / 2 - 0.5, 0, side - 1)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(side))).astype(np.float32)
    return np.asarray(weights @ pictures_nhw @ weights.T)


def _flattened(pictures_nhw: Floats) -> Floats:
    import numpy as np

    flat_nd = pictures_nhw.reshape(len(pictures_nhw), -1)
    return np.asarray(flat_nd - flat_nd.mean(axis=1, keepdims=True))


def _unit(rows_nd: Floats) -> Floats:
    """Rows of length one; a row of zeros stays."""
    import numpy as np

    return np.asarray(rows_nd / np.maximum(np.linalg.norm(rows_nd, axis=1, keepdims=True), 1e-6), dtype=np.float32)
