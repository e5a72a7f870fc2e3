"""Kestrel's training beside timm's own loop and fastai's on grocery: images/s, memory and accuracy of the same job, by turns."""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from platform_assets.vision.weights import load_backbone
from platform_tests.benchmarks.bench_grocery import GROCERY
from platform_tests.benchmarks.timm_loop import BACKBONE

# Its own pins, and the timm that has the network. lightly-train 0.18.0 installs too, and cannot train this network: its
# head expects 1,280 features and is given 320.
FASTAI = ("fastai==2.8.12", "timm==1.0.31", "safetensors")
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


def commands(folder: Path) -> dict[str, list[str]]:
    """How each trains; fastai in an environment of its own, with the weights as a file of timm's names."""
    weights, uv = folder / "lite0.safetensors", str(Path(sys.executable).with_name("uv"))
    save_file(load_backbone(BACKBONE, pretrained=True).state_dict(), weights)
    python = str(folder / "fastai/bin/python")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder / "fastai")], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *FASTAI], check=True)
    script = Path(__file__).with_name("fastai_loop.py")
    loops = {name: [sys.executable, "-m", f"platform_tests.benchmarks.{name}_loop"] for name in ("timm", "kestrel")}
    return loops | {"fastai": [python, str(script), str(weights)]}


def _run(name: str, command: list[str], folder: Path, round_number: int) -> dict[str, Any]:
    place = folder / f"{name}_{round_number}.json"
    options = [str(number) for number in (SIZE_PX, BATCH, EPOCHS, WARMUP)]
    subprocess.run([*command, str(folder / "grocery"), str(place), *options], check=True)
    found: dict[str, Any] = json.loads(place.read_text())
    return found


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not GROCERY.is_dir(), reason="the grocery photographs do not lie beside the project")
def test_bench_training__as_fast_as_the_loops_of_others(tmp_path: Path) -> None:
    class_folders(tmp_path / "grocery")
    by_name = commands(tmp_path)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in by_name}
    for number in range(ROUNDS):
        for name, command in by_name.items():
            found[name].append(_run(name, command, tmp_path, number))
    rates = {
        name: [epoch["images_per_second"] for run in runs for epoch in run["epochs"]] for name, runs in found.items()
    }
    print(
        f"\n| {SIZE_PX} px, batch {BATCH}, {EPOCHS} epochs | images/s | val top-1 | peak MB |\n| --- | --- | --- | --- |"
    )
    for name, runs in found.items():
        top1 = ", ".join(f"{run['epochs'][-1]['val_top1']:.3f}" for run in runs)
        peak = max(run["peak_mb"] for run in runs)
        print(f"| {name} | {statistics.median(rates[name]):.1f} | {top1} | {peak:.0f} |")
    for other in ("timm", "fastai"):
        ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["kestrel"], rates[other], strict=True))
        print(f"beside {other}: {ratio:.2f}")
        assert ratio >= 1.0
