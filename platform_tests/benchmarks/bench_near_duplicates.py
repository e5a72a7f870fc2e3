"""Near duplicates: how many planted copies of real photographs are found by kind of change, and 100,000 hashes."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

from platform_assets.vision.images.decoding import decode_rgb
from platform_assets.vision.images.image_facts import inspect_image
from platform_assets.vision.networks.embedding import embed
from platform_assets.vision.networks.engines import choose_engine
from platform_assets.vision.networks.weights import load_backbone
from platform_assets.vision.quality.hash_pairs import hash_pairs
from platform_assets.vision.quality.near_duplicates import (
    near_duplicate_groups,
    near_duplicates,
    near_duplicates_by_vectors,
)
from platform_assets.vision.recipes.backbones import get_backbone
from platform_tests.vision.pictures import encoded

GROCERY = Path(__file__).parents[3] / "shared/data/grocery"
PLANTED = 150


def _scaled(factor: float) -> Callable[[Image.Image], Image.Image]:
    table = [min(255, round(level * factor)) for level in range(256)] * 3
    return lambda image: image.point(table)


def _cropped(fraction: float, *, corner: bool = False) -> Callable[[Image.Image], Image.Image]:
    def crop(image: Image.Image) -> Image.Image:
        left, top = (0, 0) if corner else (image.width * fraction / 2, image.height * fraction / 2)
        right, bottom = left + image.width * (1 - fraction), top + image.height * (1 - fraction)
        return image.crop((round(left), round(top), round(right), round(bottom)))

    return crop


def _smaller(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 40": lambda image: image,
    "half the size": _smaller,
    "4 % cropped": _cropped(0.04),
    "8 % cropped": _cropped(0.08),
    "8 % cropped from a corner": _cropped(0.08, corner=True),
    "1.3 times as bright": _scaled(1.3),
    "0.7 times as bright": _scaled(0.7),
    "mirrored": ImageOps.mirror,
    "two thirds, 5 % cropped, 1.15 times as bright": lambda image: _scaled(1.15)(
        _cropped(0.05)(image.resize((image.width * 2 // 3, image.height * 2 // 3)))
    ),
}


def _row(path: str, data: bytes) -> dict[str, object]:
    facts = inspect_image(data)
    image_id = hashlib.sha256(data).hexdigest()
    return {"image_id": image_id, "path": path, "phash": facts.phash, "pixel_std": facts.pixel_std}


def _folder(name: str) -> Path:
    if name == "grocery":
        return GROCERY
    found = find_spec("elpv_dataset")
    return Path(next(iter((found and found.submodule_search_locations) or ["absent"])))


class Planted(NamedTuple):
    """The rows of a set's own images and of PLANTED copies a change, the bytes of all by path, and the pairs to be found."""

    own: list[dict[str, object]]
    copies: list[dict[str, object]]
    data: dict[str, bytes]
    change_of: dict[frozenset[object], str]

    def records(self) -> pl.DataFrame:
        return pl.DataFrame(self.own + self.copies, schema_overrides={"pixel_std": pl.Array(pl.Float32, 3)})

    def recalls(self, found: pl.DataFrame) -> dict[str, float]:
        pairs = {frozenset(pair) for pair in found.select("image_id", "other_id").iter_rows()}
        wanted = {change: [pair for pair, of in self.change_of.items() if of == change] for change in CHANGES}
        return {change: sum(pair in pairs for pair in of) / len(of) for change, of in wanted.items()}

    def between_own(self, found: pl.DataFrame) -> pl.DataFrame:
        copies = [str(row["image_id"]) for row in self.copies]
        return found.filter(~pl.col("image_id").is_in(copies), ~pl.col("other_id").is_in(copies))


def planted_in(name: str) -> Planted:
    folder = _folder(name)
    if not folder.is_dir():
        pytest.skip(f"the photographs of {name} are not here")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.suffix in (".jpg", ".png")}
    data = {path: place.read_bytes() for path, place in sorted(files.items())}
    own = [_row(path, content) for path, content in data.items()]
    images = np.random.default_rng(0).permutation(len(own))
    planted = Planted(own, [], data, {})
    for turn, (change, apply) in enumerate(CHANGES.items()):
        for index in images[turn * PLANTED : (turn + 1) * PLANTED]:
            path, quality = str(own[index]["path"]), 40 if "40" in change else 80
            data[f"copy/{path}"] = encoded(apply(Image.fromarray(decode_rgb(data[path]))), "JPEG", quality=quality)
            planted.copies.append(_row(f"copy/{path}", data[f"copy/{path}"]))
            planted.change_of[frozenset((own[index]["image_id"], planted.copies[-1]["image_id"]))] = change
    return planted


@pytest.mark.bench
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["grocery", "elpv"])
def test_bench_near_duplicates__planted_copies_are_found(name: str) -> None:
    planted = planted_in(name)
    records = planted.records()
    started = time.monotonic()
    found = near_duplicates(records, planted.data.__getitem__)
    seconds, own = time.monotonic() - started, planted.between_own(found)
    sizes = near_duplicate_groups(own)["near_group"].value_counts()["count"]
    print(
        f"\n{name}: {len(planted.own)} images and {len(planted.copies)} copies, {seconds:.1f} s; {own.height} pairs of its"
    )
    print(
        f"own ({1000 * own.height / len(planted.own):.1f} per 1,000) in {len(sizes)} groups, the largest of {sizes.max()}"
    )
    print("| change | recall |\n| --- | --- |")
    recalls = planted.recalls(found)
    for change, recall in recalls.items():
        print(f"| {change} | {recall:.3f} |")
    assert min(recalls[change] for change in ("JPEG, quality 40", "half the size", "0.7 times as bright")) >= 0.95
    assert recalls["4 % cropped"] >= 0.8


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["grocery", "elpv"])
def test_bench_near_vectors__planted_copies_are_found(name: str) -> None:
    """By the vectors of a frozen network, as beside `label_issues`."""
    planted = planted_in(name)
    backbone = get_backbone("tf_efficientnet_lite0")
    preprocessing = backbone.preprocessing(image_size_px=224)
    choice = choose_engine(load_backbone(backbone.name, pretrained=True), preprocessing, "cpu")
    images = [
        (str(row["image_id"]), partial(planted.data.__getitem__, str(row["path"])))
        for row in planted.own + planted.copies
    ]
    vectors = embed(images, preprocessing, choice.engine)
    records = planted.records()
    started = time.monotonic()
    found = near_duplicates_by_vectors(records, vectors, planted.data.__getitem__)
    seconds, own = time.monotonic() - started, planted.between_own(found)
    by_hash = planted.between_own(near_duplicates(records, planted.data.__getitem__)).select("image_id", "other_id")
    print(
        f"\n{name}: {records.height} images, {seconds:.1f} s; own pairs: {own.height} by vectors, {by_hash.height} by hash,"
    )
    print(f"{own.join(by_hash, on=['image_id', 'other_id']).height} by both\n| change | recall |\n| --- | --- |")
    recalls = planted.recalls(found)
    for change, recall in recalls.items():
        print(f"| {change} | {recall:.3f} |")
    assert recalls["half the size"] >= 0.5


@pytest.mark.bench
def test_bench_hash_pairs__a_hundred_thousand_in_seconds() -> None:
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[50_000:] = hashes[:50_000]
    for _ in range(6):
        hashes[50_000:] ^= np.uint64(1) << generator.integers(0, 64, 50_000, dtype=np.uint64)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    rows, _, _ = hash_pairs(hashes, 11)
    seconds = time.process_time() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\n100,000 hashes: {len(rows)} pairs, {seconds:.1f} s of CPU, {grown:.0f} MB more")
    assert len(rows) >= 50_000
    assert seconds < 20
