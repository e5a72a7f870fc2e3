"""Near duplicates: changed copies are pairs, other pictures and flat ones are not, whatever the order of rows."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

from platform_assets.vision.images.image_facts import inspect_image
from platform_assets.vision.quality import picture_similarity
from platform_assets.vision.quality.near_duplicates import (
    near_duplicate_groups,
    near_duplicates,
    near_duplicates_by_vectors,
    with_near_group,
)
from platform_tests.vision.pictures import encoded


def scene(seed: int, side: int = 160) -> Image.Image:
    """Soft shapes in colour, of all sizes: what a photograph has in its low frequencies."""
    generator = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).resize(
                (side, side), Image.Resampling.BICUBIC
            ),
            dtype=float,
        )
        for size in (4, 9, 20)
    ]
    return Image.fromarray((0.5 * layers[0] + 0.3 * layers[1] + 0.2 * layers[2]).astype(np.uint8))


def table(data: dict[str, bytes]) -> pl.DataFrame:
    rows = []
    for path, content in data.items():
        facts = inspect_image(content)
        image_id = hashlib.sha256(content).hexdigest()
        rows.append({"image_id": image_id, "path": path, "phash": facts.phash, "pixel_std": facts.pixel_std})
    return pl.DataFrame(rows, schema_overrides={"pixel_std": pl.Array(pl.Float32, 3)})


def pairs_of(data: dict[str, bytes]) -> set[frozenset[str]]:
    records = table(data)
    path_of = dict(records.select("image_id", "path").iter_rows())
    found = near_duplicates(records, data.__getitem__)
    return {
        frozenset((path_of[one], path_of[other])) for one, other in found.select("image_id", "other_id").iter_rows()
    }


OTHERS = {f"{seed}.png": encoded(scene(seed)) for seed in range(70)}
COPIES = {
    "smaller": scene(0).resize((70, 70)),
    "cropped": scene(0).crop((4, 4, 156, 156)),
    "brighter": scene(0).point([min(255, level * 5 // 4) for level in range(256)] * 3),
}


@pytest.mark.parametrize("change", list(COPIES))
def test_near__a_changed_copy_is_the_only_pair(change: str) -> None:
    assert pairs_of(OTHERS | {"copy.jpg": encoded(COPIES[change], "JPEG", quality=60)}) == {
        frozenset(("0.png", "copy.jpg"))
    }


def test_near__flat_pictures_have_no_pairs() -> None:
    # Three bare walls under one lamp: alike in all that is left of them, and three photographs all the same.
    lamp = np.linspace(0, 8, 40)[:, None, None].repeat(40, 1).repeat(3, 2)
    walls = {f"{level}.png": encoded(Image.fromarray((lamp + level).astype(np.uint8))) for level in (40, 90, 200)}
    assert table(walls)["phash"].n_unique() < 3
    assert pairs_of(walls) == set()


def test_near__a_layout_that_all_images_share_is_no_likeness() -> None:
    # Cells of one module: the same grid in each, other shades in between.
    layout = np.asarray(scene(500), dtype=float)
    cells = {}
    for index in range(100):
        shades = np.asarray(scene(600 + index), dtype=float) - 128
        cells[f"{index}.png"] = encoded(Image.fromarray(np.clip(layout + 0.12 * shades, 0, 255).astype(np.uint8)))
    hashes = [int(phash, 16) for phash in table(cells)["phash"]]
    alike = sum((one ^ other).bit_count() <= 11 for row, one in enumerate(hashes) for other in hashes[:row])
    found = pairs_of(cells | {"copy.jpg": encoded(Image.open(io.BytesIO(cells["7.png"])), "JPEG", quality=80)})
    assert alike > 500
    assert frozenset(("7.png", "copy.jpg")) in found
    assert len(found) < alike / 50


def test_near__does_not_depend_on_the_order_of_records() -> None:
    data = OTHERS | {"copy.jpg": encoded(COPIES["smaller"], "JPEG")}
    records = table(data)
    expected = near_duplicates(records, data.__getitem__)
    assert expected.height == 1
    assert near_duplicates(records.reverse(), data.__getitem__).equals(expected)


def test_groups__are_connected_and_named_by_the_smallest_id() -> None:
    pairs = pl.DataFrame({"image_id": ["b", "c", "x"], "other_id": ["d", "d", "y"]})
    assert sorted(near_duplicate_groups(pairs).iter_rows()) == [
        ("b", "b"),
        ("c", "b"),
        ("d", "b"),
        ("x", "x"),
        ("y", "x"),
    ]
    assert near_duplicate_groups(pairs.clear()).is_empty()


def test_groups__are_put_beside_the_records_in_their_order() -> None:
    records = pl.DataFrame({"image_id": ["z", "d", "b"], "near_group": ["old", None, None]})
    groups = pl.DataFrame({"image_id": ["b", "d"], "near_group": ["b", "b"]})
    assert with_near_group(records, groups).rows() == [("z", None), ("d", "b"), ("b", "b")]


BEYOND_HASHES = {
    "mirrored": ImageOps.mirror(scene(0)),
    "cropped at a corner": scene(0).crop((0, 0, 147, 147)),
    "cropped at the other corner, mirrored": ImageOps.mirror(scene(0).crop((13, 13, 160, 160))),
}


def vectors_of(records: pl.DataFrame, alike: dict[str, str]) -> pl.DataFrame:
    """Of each path a vector of its own, but nearly that of another where `alike` says so."""
    generator = np.random.default_rng(0)
    drawn = {path: generator.normal(size=16) for path in sorted(records["path"])}
    values = [drawn[alike.get(path, path)] + 0.1 * drawn[path] for path in records["path"]]
    return records.select("image_id", vector=pl.Series(values, dtype=pl.Array(pl.Float32, 16)))


@pytest.mark.parametrize("change", list(BEYOND_HASHES))
def test_vectors__bring_copies_together_that_hashes_miss_and_pixels_tell_them_from_look_alikes(change: str) -> None:
    data = OTHERS | {"copy.jpg": encoded(BEYOND_HASHES[change], "JPEG", quality=80)}
    records = table(data)
    vectors = vectors_of(records, {"copy.jpg": "0.png", "1.png": "0.png", "3.png": "2.png"})
    found = near_duplicates_by_vectors(records, vectors, data.__getitem__, nearest=3)
    path_of = dict(records.select("image_id", "path").iter_rows())
    assert pairs_of(data) == set()
    assert [{path_of[one], path_of[other]} for one, other, *_ in found.iter_rows()] == [{"0.png", "copy.jpg"}]
    assert found["cosine"].item() > 0.9
    assert 0.7 <= found["similarity"].item() <= 1


def with_copy(others: int, vectors_nd: Any) -> tuple[dict[str, bytes], pl.DataFrame, pl.DataFrame]:
    """Scenes and a mirrored copy of the first; their records, and the vectors in the order of scenes, copy last."""
    data = {f"{seed:03}.png": OTHERS[f"{seed}.png"] for seed in range(others)} | {
        "copy.png": encoded(BEYOND_HASHES["mirrored"])
    }
    records = table(data)
    series = pl.Series(list(vectors_nd), dtype=pl.Array(pl.Float32, vectors_nd.shape[1]))
    return data, records, records.select("image_id", vector=series)


def test_vectors__tell_a_copy_by_its_details_where_all_images_differ_more_in_something_else() -> None:
    generator = np.random.default_rng(0)
    # Solar cells: what a JPEG does to a vector is more than what two cells differ in, and lies in few directions.
    exposure, details = 10 * generator.normal(size=(71, 4)), generator.normal(size=(71, 28))
    details[-1] = details[0]
    data, records, vectors = with_copy(70, np.concatenate([exposure, details], axis=1))
    assert near_duplicates_by_vectors(records, vectors, data.__getitem__, nearest=3).height == 1


def test_vectors__of_few_images_are_not_pulled_apart() -> None:
    values = np.random.default_rng(0).normal(size=(13, 64))
    values[-1] = 0.8 * values[0] + 0.6 * values[-1]
    data, records, vectors = with_copy(12, values)
    assert near_duplicates_by_vectors(records, vectors, data.__getitem__, nearest=1).height == 1


def test_vectors__are_compared_the_same_in_any_order_and_block(monkeypatch: pytest.MonkeyPatch) -> None:
    data = OTHERS | {f"{name}.png": encoded(image) for name, image in COPIES.items()}
    records = table(data)
    vectors = vectors_of(records, {f"{name}.png": "0.png" for name in COPIES})
    found = near_duplicates_by_vectors(records, vectors, data.__getitem__)
    monkeypatch.setattr("platform_assets.vision.quality.near_duplicates._ROWS_AT_ONCE", 7)
    again = near_duplicates_by_vectors(records.reverse(), vectors.reverse(), data.__getitem__)
    assert found.height == 6
    assert again.select("image_id", "other_id").equals(found.select("image_id", "other_id"))
    assert np.allclose(again["similarity"], found["similarity"])


def test_vectors__flat_pictures_and_single_ones_have_no_pairs() -> None:
    flat = {f"{level}.png": encoded(Image.new("RGB", (40, 40), (level, level, level))) for level in (40, 90, 200)}
    records = table(flat | {"0.png": OTHERS["0.png"]})
    vectors = vectors_of(records, dict.fromkeys(flat, "40.png"))
    assert near_duplicates_by_vectors(records, vectors, flat.__getitem__).is_empty()


def test_progress__is_told_by_rounds_to_their_end() -> None:
    data = OTHERS | {f"{name}.png": encoded(image) for name, image in COPIES.items()}
    records = table(data)
    told: list[tuple[int, int]] = []
    near_duplicates_by_vectors(
        records, vectors_of(records, {}), data.__getitem__, nearest=1, on_progress=lambda *done: told.append(done)
    )
    ends = [done for done in told if done[0] == done[1]]
    assert [total for _, total in ends[:2]] == [73, 73]
    assert len(ends) == 3
    assert 37 <= ends[2][1] <= 73


def test_near__nothing_more_is_read_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_similarity, "_IMAGES_AT_ONCE", 1)
    data = OTHERS | {"copy.png": encoded(COPIES["brighter"])}
    read: list[str] = []

    def slowly(path: str) -> bytes:
        read.append(path)
        time.sleep(0.01)
        return data[path]

    def interrupted(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        near_duplicates(table(data), slowly, on_progress=interrupted)
    assert 1 <= len(read) < 30


def test_near_duplicates__on_a_machine_of_many_cores_only_some_blocks_are_in_memory_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock, inside, most = threading.Lock(), 0, 0
    unit = picture_similarity.unit_rows

    def counted(rows_nd: Any) -> Any:
        nonlocal inside, most
        if threading.current_thread() is threading.main_thread():
            return unit(rows_nd)
        with lock:
            inside, most = inside + 1, max(most, inside + 1)
        time.sleep(0.005)
        with lock:
            inside -= 1
        return unit(rows_nd)

    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(picture_similarity, "_PAIRS_AT_ONCE", 1)
    monkeypatch.setattr(picture_similarity, "unit_rows", counted)
    picture = encoded(scene(1), "PNG")
    copies = {
        f"{number}.png": encoded(scene(1).point([min(255, v + number) for v in range(256)] * 3), "PNG")
        for number in range(1, 8)
    }
    assert near_duplicates(table({"0.png": picture, **copies}), {"0.png": picture, **copies}.__getitem__).height == 28
    assert 1 < most <= 8
