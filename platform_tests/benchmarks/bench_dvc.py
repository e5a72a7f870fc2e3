"""DVC on many small files beside DVC on packs of the same files: add, status, push, checkout; and reading by offset."""

from __future__ import annotations

import hashlib
import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import pytest
from PIL import Image

from platform_assets.stores.datasets import Datasets
from platform_assets.vision.datasets.packs import Packs, pack

CLASSES = 100
READ = 10_000
MOST_PULLED = 10_000
"""Pulling single files into an empty cache takes milliseconds each: not waited for beyond this many."""

T = TypeVar("T")


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("images", [10_000, 100_000])
def test_bench_dvc__packs_are_added_and_pushed_in_a_fraction_of_the_time(images: int, tmp_path: Path) -> None:
    records = _write_images(tmp_path / "files/project/images", images)
    root = tmp_path / "files/project/images"
    packing, packs = _timed(lambda: pack(records, root, tmp_path / "packs/project/images"))
    pulls = images <= MOST_PULLED
    of_files = _dvc_seconds(tmp_path / "files/project", pulls=pulls)
    of_packs = _dvc_seconds(tmp_path / "packs/project", pulls=pulls)
    unpacking, _ = _timed(lambda: packs.unpack(tmp_path / "unpacked"))
    reading = _reading_seconds(packs, tmp_path / "unpacked", records)

    size = records["bytes"].sum() / images
    print(f"\n{images:,} JPEGs of {size:,.0f} bytes; {len(set(packs.manifest['shard']))} shards; s")
    print("| step | files | packs | ratio |\n| --- | --- | --- | --- |")
    for step in of_files:
        print(f"| {step} | {of_files[step]:.1f} | {of_packs[step]:.1f} | {of_files[step] / of_packs[step]:.0f} |")
    print(f"pack {packing:.1f}, unpack {unpacking:.1f}")
    print(f"read of {READ:,} in random order: files {reading[0]:.2f}, packs {reading[1]:.2f}")
    for step in ("add", "status", "push", "checkout"):
        assert of_files[step] > 3 * of_packs[step]


def _write_images(folder: Path, images: int) -> pl.DataFrame:
    random = np.random.default_rng(0)
    rows = []
    for number in range(images):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (36, 36, 3), dtype=np.uint8)).save(file, "JPEG", quality=75)
        data, label = file.getvalue(), f"class_{number % CLASSES:03d}"
        place = folder / label / f"{number:06d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        image_id = hashlib.sha256(data).hexdigest()
        rows.append({"image_id": image_id, "path": f"{label}/{place.name}", "label": label, "split": "train"})
        rows[-1]["bytes"] = len(data)
    return pl.DataFrame(rows)


def _dvc_seconds(project: Path, *, pulls: bool) -> dict[str, float]:
    datasets, folder = Datasets(project, project / "data"), Path("images")
    datasets.initialise()
    seconds = {
        "add": _timed(lambda: datasets.add(folder))[0],
        "status": _timed(lambda: datasets.status(folder))[0],
        "push": _timed(lambda: datasets.push(folder))[0],
    }
    shutil.rmtree(project / "images")
    seconds["checkout"] = _timed(lambda: datasets.pull(folder))[0]
    assert datasets.status(folder) == "unchanged"
    if pulls:
        shutil.rmtree(project / "images")
        shutil.rmtree(project / ".dvc/cache")
        seconds["pull, cache empty"] = _timed(lambda: datasets.pull(folder))[0]
    return seconds


def _reading_seconds(packs: Packs, root: Path, records: pl.DataFrame) -> tuple[float, float]:
    some = records.sample(min(READ, records.height), seed=0)
    paths = [root / path for path in some["path"]]
    packs.read(some["image_id"][0])
    return (
        _timed(lambda: [path.read_bytes() for path in paths])[0],
        _timed(lambda: [packs.read(image_id) for image_id in some["image_id"]])[0],
    )


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.monotonic()
    result = work()
    return time.monotonic() - started, result
