"""The source and records assets of small photographs through the graph: part by part, beside plain decoding and hashing.

python -m platform_tests.benchmarks.bench_records COUNT measures COUNT images.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from platform_assets.components import records_steps
from platform_assets.stores.tables import Tables
from platform_assets.vision.datasets import profile, scanning, splits
from platform_assets.vision.quality import class_balance, near_duplicates, record_schema, shift
from platform_tests.benchmarks.bench_scan import cost, decode_and_hash, plain, plain_in_processes, write_photographs
from platform_tests.components.projects import RECORDS, Project, project

SCENES = 1000
"""So many that look-alikes are few, as in photographs: with 64, near duplicates grow with the square of the images."""

DIVIDED, BUILT = "parts and their version", "records: scan, parts, version"
SEARCH, SHOWN = "near duplicates", "near duplicates, shown and checked"
"""Another asset of the step that makes records."""
FEW, MANY, ROUNDS = 200, 100_000, 3
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "hashing, in source": ((scanning, "hash_files"),),
    "scan": ((scanning, "scan"),),
    SEARCH: ((near_duplicates, "near_duplicates"),),
    SHOWN: ((records_steps, "near_duplicates_result"),),
    DIVIDED: ((records_steps, "divided"), (profile, "records_version")),
    "tables, written": ((Tables, "write"), (Tables, "write_version")),
    "tables, read": ((Tables, "read"),),
    "schema": ((record_schema, "schema_problems"),),
    "shift of test": ((shift, "shift"),),
    "leaks, classes": ((splits, "split_leaks"), (splits, "absent_classes"), (class_balance, "class_balance_problems")),
}
"""The functions that a part of the two assets is spent in."""


def timed(spent: Counter[str], name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(work)
    def around(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            spent[name] += time.perf_counter() - start

    return around


@contextmanager
def watched() -> Iterator[Counter[str]]:
    """Seconds spent in each part."""
    spent: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name, places in PARTS.items():
            for owner, attribute in places:
                patch.setattr(owner, attribute, timed(spent, name, getattr(owner, attribute)))
        yield spent


def materialized(made: Project) -> dict[str, float]:
    """Seconds of each asset and part of one materialization of source and records."""
    with watched() as spent:
        result = made.materialize(RECORDS)
    steps = {
        f"{event.step_key.removeprefix('photos__')} asset": event.step_success_data.duration_ms / 1e3
        for event in result.all_events
        if event.is_step_success and event.step_key
    }
    return {
        **{name: steps[name] for name in ("source asset", "records asset")},
        **{name: spent[name] for name in PARTS},
    }


def plain_seconds(root: Path) -> dict[str, float]:
    """Of decoding and hashing every file, nothing else, with all cores."""
    paths = sorted(root.rglob("*.jpg"))
    ways: dict[str, Callable[[], object]] = {
        "threads": lambda: plain(decode_and_hash, paths),
        "processes": lambda: plain_in_processes(root),
    }
    return {name: cost(work).wall_s for name, work in ways.items()}


class Measured(NamedTuple):
    """Seconds by asset and part, of the first run and of one where nothing changed, and of the plain ways."""

    first: dict[str, float]
    again: dict[str, float]
    plain: dict[str, float]

    @property
    def made(self) -> dict[str, float]:
        """Seconds of the records themselves; with rejected, label map, tables and checks; with near duplicates too."""
        whole = self.first["records asset"]
        return {
            BUILT: self.first["scan"] + self.first[DIVIDED],
            "records asset without near duplicates": whole - self.first[SEARCH] - self.first[SHOWN],
            "records asset": whole,
        }


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(turn[name] for turn in rounds) for name in rounds[0]}


def of_a_new_project(root: Path, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The first materialization, and the one after it."""
    with pytest.MonkeyPatch.context() as patch, project(folder, root, patch) as made:
        patch.chdir(made.folder)
        return materialized(made), materialized(made)


def measure(count: int, folder: Path) -> tuple[Measured, dict[str, float]]:
    """Medians of rounds by turns, and of each plain way's rate the share that building records reaches.

    What all ways load is loaded before.
    """
    root, few = folder / "images", folder / "few"
    write_photographs(few, FEW, SCENES)
    write_photographs(root, count, SCENES)
    cold, warm = (of_a_new_project(few, folder / name)[0] for name in ("cold", "warm"))
    plain_seconds(root)
    rounds = []
    for number in range(ROUNDS):
        plain_s = plain_seconds(root)
        rounds.append(Measured(*of_a_new_project(root, folder / f"project_{number}"), plain_s))
    found = Measured(*(medians([getattr(turn, name) for turn in rounds]) for name in Measured._fields))
    print(f"\n| {count:,} images | s | images/s | unchanged, s |\n|{' --- |' * 4}")
    for name, seconds in found.first.items():
        print(f"| {name} | {seconds:.2f} | {count / max(seconds, 1e-3):,.0f} | {found.again[name]:.2f} |")
    print(f"| loading libraries, once a process | {cold['records asset'] - warm['records asset']:.2f} | | |")
    print(f"\n| | s | share of {' | share of '.join(found.plain)} |\n|{' --- |' * (2 + len(found.plain))}")
    for name, seconds in found.plain.items():
        print(f"| plain decoding and SHA-256, {name} | {seconds:.2f} |{' |' * len(found.plain)}")
    shares = {
        name: medians([{way: plain_s / turn.made[name] for way, plain_s in turn.plain.items()} for turn in rounds])
        for name in found.made
    }
    for name, seconds in found.made.items():
        print(f"| {name} | {seconds:.2f} | {' | '.join(f'{share:.2f}' for share in shares[name].values())} |")
    return found, shares[BUILT]


@pytest.mark.bench
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("count", [10_000, MANY])
def test_bench_records__part_by_part_and_again_unchanged(count: int, tmp_path: Path) -> None:
    found, shares = measure(count, tmp_path)
    assert found.first["scan"] > 0
    assert found.again["scan"] == found.again[SEARCH] == 0
    assert found.again["records asset"] < found.first["records asset"] / 3
    if count == MANY:
        assert min(shares.values()) >= 0.8


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        measure(int(sys.argv[1]), Path(place))
