"""Kestrel's training beside timm's own loop on grocery: images/s, memory and accuracy of the same job, by turns."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from platform_tests.benchmarks.bench_grocery import GROCERY

SIZE_PX, BATCH, EPOCHS, WARMUP, ROUNDS = 160, 32, 3, 1, 2


def class_folders(folder: Path) -> Path:
    """grocery's train and val as folders of classes, by links."""
    for part in ("train", "val"):
        with (GROCERY / f"{part}.txt").open(newline="") as table:
            for path, label, *_ in csv.reader(table, skipinitialspace=True):
                place = folder / part / f"{int(label):03d}"
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{Path(path).stem}.jpg").symlink_to(GROCERY / path)
    return folder


def _run(script: str, folder: Path, out: Path, round_number: int) -> dict[str, Any]:
    place = out / f"{script}_{round_number}.json"
    options = [str(number) for number in (SIZE_PX, BATCH, EPOCHS, WARMUP)]
    module = f"platform_tests.benchmarks.{script}_loop"
    subprocess.run([sys.executable, "-m", module, str(folder), str(place), *options], check=True)
    found: dict[str, Any] = json.loads(place.read_text())
    return found


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not GROCERY.is_dir(), reason="the grocery photographs do not lie beside the project")
def test_bench_training__as_fast_as_timms_own_loop(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / "grocery")
    found: dict[str, list[dict[str, Any]]] = {"timm": [], "kestrel": []}
    for number in range(ROUNDS):
        for script, runs in found.items():
            runs.append(_run(script, folder, tmp_path, number))
    rates = {
        script: [epoch["images_per_second"] for run in runs for epoch in run["epochs"]]
        for script, runs in found.items()
    }
    print(
        f"\n| {SIZE_PX} px, batch {BATCH}, {EPOCHS} epochs | images/s | val top-1 | peak MB |\n| --- | --- | --- | --- |"
    )
    for script, runs in found.items():
        top1 = ", ".join(f"{run['epochs'][-1]['val_top1']:.3f}" for run in runs)
        peak = max(run["peak_mb"] for run in runs)
        print(f"| {script} | {statistics.median(rates[script]):.1f} | {top1} | {peak:.0f} |")
    ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["kestrel"], rates["timm"], strict=True))
    print(f"ratio {ratio:.2f}")
    assert ratio >= 1.0
