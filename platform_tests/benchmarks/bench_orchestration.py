"""What Dagster costs: loading the definitions beside its own import, and the demo graph beside one plain script."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOAD = "from platform_assets.definitions import defs; defs().get_repository_def()"
TIMED = "import time; started = time.perf_counter(); {}; print(time.perf_counter() - started)"


def _seconds(command: list[str], **variables: str) -> float:
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, **variables})
    return time.monotonic() - started


def _seconds_inside(code: str) -> float:
    """What the code takes in a fresh interpreter, less its start and its end (which differ: see gc.freeze in definitions.py)."""
    command = [sys.executable, "-c", TIMED.format(code)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


@pytest.mark.bench
def test_bench_definitions__load_within_1_3_of_importing_dagster() -> None:
    pairs = [(_seconds_inside("import dagster"), _seconds_inside(LOAD)) for _ in range(9)]
    dagster, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(after / before for before, after in pairs)
    print(f"\n| import dagster, s | load the definitions, s | ratio |\n| {dagster:.2f} | {ours:.2f} | {ratio:.2f} |")
    assert ratio <= 1.3


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_bench_demo__at_most_1_5_of_one_plain_script(tmp_path: Path) -> None:
    plain = _seconds([sys.executable, "-m", "platform_tests.benchmarks.plain", str(tmp_path / "plain")])
    kestrel = str(Path(sys.executable).with_name("kestrel"))
    first = _seconds([kestrel, "demo"], KESTREL_DATA=str(tmp_path / "data"))
    again = _seconds([kestrel, "demo"], KESTREL_DATA=str(tmp_path / "data"))
    print(f"\n| plain script, s | through Dagster, s | ratio | again, nothing changed, s |\n| {plain:.0f} ", end="")
    print(f"| {first:.0f} | {first / plain:.2f} | {again:.0f} |")
    assert first <= 1.5 * plain
