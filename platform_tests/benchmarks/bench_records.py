"""The source and records assets of small photographs through the graph: what they cost beside the scan in them, part by part.

python -m platform_tests.benchmarks.bench_records COUNT measures COUNT images.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from platform_assets.components import records_steps
from platform_assets.stores.tables import Tables
from platform_assets.vision.datasets import profile, scanning, splits
from platform_assets.vision.quality import class_balance, near_duplicates, record_schema, shift
from platform_tests.benchmarks.bench_scan import write_photographs
from platform_tests.components.projects import RECORDS, Project, project

SCENES = 1000
"""So many that look-alikes are few, as in photographs: with 64, near duplicates grow with the square of the images."""

PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "hashing, in source": ((scanning, "hash_files"),),
    "scan": ((scanning, "scan"),),
    "near duplicates": ((near_duplicates, "near_duplicates"),),
    "parts and their version": ((records_steps, "divided"), (profile, "records_version")),
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


def print_costs(count: int, first: dict[str, float], again: dict[str, float]) -> None:
    print(f"\n| {count:,} images | s | images/s | unchanged, s |\n|{' --- |' * 4}")
    for name, seconds in first.items():
        print(f"| {name} | {seconds:.2f} | {count / max(seconds, 1e-3):,.0f} | {again[name]:.2f} |")
    share = first["scan"] / (first["source asset"] + first["records asset"])
    print(f"| scan of source and records | {share:.2f} of their time | | |")


def measure(count: int, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    write_photographs(folder / "images", count, SCENES)
    with pytest.MonkeyPatch.context() as patch, project(folder / "project", folder / "images", patch) as made:
        patch.chdir(made.folder)
        first, again = materialized(made), materialized(made)
    print_costs(count, first, again)
    return first, again


@pytest.mark.bench
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("count", [10_000, 100_000])
def test_bench_records__part_by_part_and_again_unchanged(count: int, tmp_path: Path) -> None:
    first, again = measure(count, tmp_path)
    assert first["scan"] > 0
    assert again["scan"] == again["near duplicates"] == 0
    assert again["records asset"] < first["records asset"] / 3


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        measure(int(sys.argv[1]), Path(place))
