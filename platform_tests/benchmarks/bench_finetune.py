"""Finetunes of tf_efficientnet_lite0 by YAML alone: grocery on its official parts in two hours, elpv over three seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from platform_tests.benchmarks.bench_grocery import DATASET, GROCERY, materialized

ELPV_DATASET = yaml.safe_load(Path(__file__).parents[2].joinpath("platform_assets/defs/elpv/defs.yaml").read_text())
BACKBONE = "tf_efficientnet_lite0"
SHARED = {
    "epochs": 16,
    "patience_epochs": 16,
    "learning_rate": 1e-3,
    "backbone_learning_rate_factor": 0.5,
    "ema_decay": 0.99,
}
# Crops smaller than what is evaluated: a quarter fewer pixels to train on, and objects of one size in both.
CROPS = {"augmentation": "crop_flip", "crop_size_px": 224, "crop_scale": 1.3, "crop_area_min": 0.25}
GROCERY_EXPERIMENT: dict[str, Any] = {
    "name": "finetune",
    "dataset": "grocery",
    "description": "A finetune beside its probe, on the official parts.",
    "metric": "top1",
    "resize": "shorter_side",
    "image_size_px": 288,
    "baseline": "probe",
    "variants": {
        "probe": {"backbone": BACKBONE, "mode": "linear_probe", "features": "stages"},
        "finetune": {"backbone": BACKBONE, "mode": "finetune", "train": {**SHARED, **CROPS, "color_jitter": 0.3}},
    },
}
ELPV_EXPERIMENT: dict[str, Any] = {
    "name": "finetune",
    "dataset": "elpv",
    "description": "A finetune beside its probe, each seed on a split of its own.",
    "metric": "top1",
    "image_size_px": 192,
    "seeds": [0, 1, 2],
    "resample": True,
    "baseline": "probe",
    "variants": {
        "probe": {"backbone": BACKBONE, "mode": "linear_probe", "features": "stages"},
        "finetune": {
            "backbone": BACKBONE,
            "mode": "finetune",
            "train": {**SHARED, "epochs": 7, "patience_epochs": 7, "augmentation": "dihedral"},
        },
    },
}


def trained(folder: Path, dataset: dict[str, Any], experiment: dict[str, Any]) -> pl.DataFrame:
    """The metrics of all trials, printed."""
    tables, key = materialized(folder, dataset, experiment), [experiment["dataset"], experiment["name"], "metrics"]
    trials = [f"{variant}__s{seed}" for variant in experiment["variants"] for seed in experiment.get("seeds", [0])]
    rows = pl.concat([tables.read(key, trial) for trial in trials])
    print("\n| trial | val top-1 | test top-1 | test macro-F1 | s |\n| --- | --- | --- | --- | --- |")
    shown = rows.select("trial", "val_top1", "test_top1", "test_macro_f1", "train_seconds").sort("trial")
    for trial, val, test, macro_f1, seconds in shown.rows():
        print(f"| {trial} | {val:.4f} | {test:.4f} | {macro_f1:.4f} | {seconds:.0f} |")
    return rows


@pytest.mark.bench
@pytest.mark.timeout(9000)
@pytest.mark.skipif(not GROCERY.is_dir(), reason="the grocery photographs do not lie beside the project")
def test_bench_finetune__grocery_beats_its_probe_within_two_hours(tmp_path: Path) -> None:
    row = trained(tmp_path, DATASET, GROCERY_EXPERIMENT).filter(variant="finetune").row(0, named=True)
    assert row["train_seconds"] <= 2 * 3600
    assert row["test_top1"] >= 0.82


@pytest.mark.bench
@pytest.mark.timeout(9000)
def test_bench_finetune__elpv_over_three_seeds(tmp_path: Path) -> None:
    rows = trained(tmp_path, ELPV_DATASET, ELPV_EXPERIMENT)
    means = {name: rows.filter(variant=name)["test_top1"].mean() for name in ("probe", "finetune")}
    print(f"mean top-1: probe {means['probe']:.4f}, finetune {means['finetune']:.4f}; the paper's finetune 0.8842")
    # Seven epochs end before val loss does: the finetune ties with its probe. Under this something is broken.
    assert means["finetune"] > 0.85
