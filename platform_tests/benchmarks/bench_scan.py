"""The scan of 100,000 small photographs beside plain scripts that decode and hash the same files, and what a second run costs.

python -m platform_tests.benchmarks.bench_scan FOLDER measures one scan of FOLDER, in JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import imagehash
import numpy as np
import psutil
import pytest
import simplejpeg
from PIL import Image, ImageStat

from platform_assets.vision.datasets.inspection import Known
from platform_assets.vision.datasets.scanning import Scan, hash_files, scan
from platform_assets.vision.formats.folder import FolderSource

FEW, MANY, ROUNDS, CLASSES, SIDE_PX = 10_000, 100_000, 7, 10, 128
SAMPLED_EVERY_S = 0.02
SOURCE = FolderSource(kind="folder", path="x")
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float


def write_photographs(root: Path, count: int, scenes: int = 64) -> list[Path]:
    """JPEGs of smooth noise in three octaves, each with bytes of its own; those of one scene overlap."""
    generator = np.random.default_rng(0)
    fields = [_field(generator, 2 * SIDE_PX) for _ in range(scenes)]
    paths = []
    for number in range(count):
        top, left = generator.integers(0, SIDE_PX, 2)
        pixels = fields[number % len(fields)][top : top + SIDE_PX, left : left + SIDE_PX].copy()
        pixels[:4, :8] = generator.integers(0, 256, (4, 8, 3))
        paths.append(root / f"class_{number % CLASSES}" / f"{number:06}.jpg")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(paths[-1], quality=88)
    return paths


def _field(generator: np.random.Generator, side: int) -> np.ndarray:
    octaves = [(cells, generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)) for cells in (4, 16, 64)]
    total = sum(
        np.asarray(Image.fromarray(field).resize((side, side), Image.Resampling.BICUBIC), np.float32) / cells**0.5
        for cells, field in octaves
    )
    return (total / np.max(total) * 255).astype(np.uint8)


def decode_and_hash(path: Path) -> object:
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest(), simplejpeg.decode_jpeg(data, colorspace="RGB").shape


def same_facts(path: Path) -> object:
    data = path.read_bytes()
    picture = Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
    seen = ImageStat.Stat(picture)
    return hashlib.sha256(data).hexdigest(), picture.size, str(imagehash.phash(picture)), seen.mean, seen.stddev


def plain(work: Callable[[Path], object], paths: Sequence[Path]) -> list[object]:
    """All cores; whole chunks a task, which is a third faster than one file a task."""
    chunks = [paths[start : start + 256] for start in range(0, len(paths), 256)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [found for chunk in pool.map(lambda chunk: [work(path) for path in chunk], chunks) for found in chunk]


# Nothing but the two libraries is loaded, and a copy of a process costs next to nothing: there is no faster plain way.
IN_PROCESSES = """
import hashlib, multiprocessing, os, pathlib, sys
import simplejpeg
def read(path):
    data = path.read_bytes()
    return hashlib.sha256(data).hexdigest(), simplejpeg.decode_jpeg(data, colorspace="RGB").shape
def read_all(paths):
    return [read(path) for path in paths]
paths = sorted(pathlib.Path(sys.argv[1]).rglob("*.jpg"))
with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
    for found in pool.imap(read_all, [paths[start : start + 256] for start in range(0, len(paths), 256)]):
        pass
    pool.close()
    pool.join()
"""


def plain_in_processes(root: Path) -> None:
    subprocess.run([sys.executable, "-c", IN_PROCESSES, str(root)], check=True)


def cost(work: Callable[[], object]) -> Cost:
    wall_s, cpu_s = time.perf_counter(), _cpu_s()
    work()
    return Cost(time.perf_counter() - wall_s, _cpu_s() - cpu_s)


def _cpu_s() -> float:
    """Of this process and the ended ones that it started."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def measured(root: Path, known: Known | None = None) -> tuple[Scan, Cost]:
    found: list[Scan] = []
    spent = cost(lambda: found.append(scan(SOURCE.read(root), root, known=known)))
    return found[0], spent


def peak_mb() -> float:
    """The largest resident size of this process so far. On Linux getrusage's would be that of the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def alone(root: Path) -> dict[str, float]:
    """One scan in a process of its own."""
    command = [sys.executable, "-m", "platform_tests.benchmarks.bench_scan", str(root)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def by_turns(paths: Sequence[Path], root: Path) -> Iterator[dict[str, Cost]]:
    for _ in range(ROUNDS):
        yield {
            "decode, SHA-256, threads": cost(lambda: plain(decode_and_hash, paths)),
            "decode, SHA-256, processes": cost(lambda: plain_in_processes(root)),
            "scan": measured(root)[1],
        }


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))


def print_costs(count: int, rounds: Sequence[dict[str, Cost]]) -> dict[str, float]:
    """A row a way of reading; of each the share of its rate, by wall, that the scan reaches."""
    shares = {}
    print(
        f"\n| {count:,} JPEGs of {SIDE_PX} px | us an image, wall | CPU | scan's share, wall | CPU |\n|{' --- |' * 5}"
    )
    ours = [turn["scan"] for turn in rounds]
    for name in rounds[0]:
        costs = [turn[name] for turn in rounds]
        shares[name] = median_ratio([c.wall_s for c in ours], [c.wall_s for c in costs])
        cpu = median_ratio([c.cpu_s for c in ours], [c.cpu_s for c in costs])
        wall_us, cpu_us = (statistics.median(each) / count * 1e6 for each in zip(*map(astuple, costs), strict=True))
        print(f"| {name} | {wall_us:.0f} | {cpu_us:.0f} | {shares[name]:.2f} | {cpu:.2f} |")
    return shares


@pytest.mark.bench
@pytest.mark.timeout(3000)
def test_bench_scan__beside_plain_scripts_and_again(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    paths = write_photographs(few, FEW)
    rounds = list(by_turns(paths, few))
    rounds = [turn | {"the same facts, threads": cost(lambda: plain(same_facts, paths))} for turn in rounds]
    print_costs(FEW, rounds)
    shares = print_costs(MANY, list(by_turns(write_photographs(many, MANY), many)))
    small, large = alone(few), alone(many)
    print(
        "\n| images | scan s | peak MB, all processes | peak MB, own | hashing alone s | second run s | one changed s |"
    )
    print("|" + " --- |" * 7)
    for count, row in ((FEW, small), (MANY, large)):
        figures = ("scan_s", "tree_mb", "peak_mb", "hash_s", "again_s", "changed_s")
        print(f"| {count:,} | " + " | ".join(f"{row[name]:.2f}" for name in figures) + " |")
    assert min(shares.values()) >= 0.8
    assert (large["again_read"], large["changed_read"]) == (0, 1)
    assert large["again_s"] < large["scan_s"] / 3
    assert large["tree_mb"] < 1.12 * small["tree_mb"]
    assert large["peak_mb"] - small["peak_mb"] < 80


@contextmanager
def sampled() -> Iterator[list[float]]:
    """The resident MB of this process and its children together; pages that they share are counted in each."""
    found, over, this = [0.0], threading.Event(), psutil.Process()

    def sample() -> None:
        while not over.wait(SAMPLED_EVERY_S):
            try:
                found.append(sum(each.memory_info().rss for each in (this, *this.children())) / 1e6)
            except psutil.NoSuchProcess:  # it ended between the two questions
                continue

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def main(root: Path) -> None:
    with sampled() as resident_mb:
        first, scanned = measured(root)
    scan_mb, code = peak_mb(), ""
    paths = list(first.records["path"])
    hash_cost = cost(lambda: hash_files(root, paths))
    known = Known(hashes=hash_files(root, paths), facts=first.facts, code=code)
    again, again_cost = measured(root, known)
    changed = root / paths[len(paths) // 2]
    changed.write_bytes(changed.read_bytes() + b"\0")
    known = Known(hashes=hash_files(root, paths, known.hashes), facts=again.facts, code=code)
    one, one_cost = measured(root, known)
    figures = {
        "tree_mb": max(resident_mb),
        "peak_mb": scan_mb,
        "scan_s": scanned.wall_s,
        "hash_s": hash_cost.wall_s,
    }
    figures |= {"again_s": again_cost.wall_s, "changed_s": one_cost.wall_s}
    figures |= {"again_read": again.files_read, "changed_read": one.files_read}
    json.dump(figures | {"cpu": asdict(scanned)}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
