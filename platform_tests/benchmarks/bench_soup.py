"""Soups and ensembles of five finetunes on grocery: top-1 beside that of their best member, chosen on val."""

from __future__ import annotations

import csv
import hashlib
import time
from pathlib import Path

import polars as pl
import pytest

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.scores import score
from platform_assets.vision.networks.checkpoints import save_checkpoint
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.recipes.combination_options import resolve_combination
from platform_assets.vision.recipes.resolving import Member, Protocol, ResolvedTrial, resolve_trial
from platform_assets.vision.recipes.variants import Variant
from platform_assets.vision.training.pixels import Pixels
from platform_assets.vision.trials.combination_fitting import fit_combination_trial
from platform_assets.vision.trials.fitting import Fitted
from platform_assets.vision.trials.network_fitting import fit_network_trial
from platform_tests.benchmarks.bench_grocery import GROCERY

SIZE_PX, EPOCHS, EVERY = 96, 3, 3
RECIPES = {
    "plain": {"learning_rate": 1e-3, "augmentation": "flip"},
    "slow": {"learning_rate": 5e-4, "augmentation": "crop_flip"},
    "fast": {"learning_rate": 2e-3, "augmentation": "crop_flip", "label_smoothing": 0.0},
}
TRIALS = (("plain", 0), ("slow", 0), ("fast", 0), ("plain", 1), ("plain", 2))
COMBINATIONS = {
    "soup of three recipes, one seed": ("soup", None, ("plain__s0", "slow__s0", "fast__s0")),
    "soup of three seeds, one recipe": ("soup", None, ("plain__s0", "plain__s1", "plain__s2")),
    "ensemble of all, mean": ("ensemble", "mean", ()),
    "ensemble of all, weighted": ("ensemble", "weighted", ()),
    "ensemble of all, vote": ("ensemble", "vote", ()),
}


def grocery_records() -> pl.DataFrame:
    """Every third train image, all of val and test."""
    rows = []
    for part in ("train", "val", "test"):
        with (GROCERY / f"{part}.txt").open(newline="") as table:
            lines = list(csv.reader(table, skipinitialspace=True))
        for path, label, *_ in lines[:: EVERY if part == "train" else 1]:
            image_id = hashlib.sha256((GROCERY / path).read_bytes()).hexdigest()
            rows.append({"image_id": image_id, "path": path, "label": f"{int(label):03d}", "split": part})
    return pl.DataFrame(rows)


def protocol_of(label_map: LabelMap) -> Protocol:
    return Protocol(
        dataset="grocery",
        experiment="soup",
        metric="top1",
        label_map_checksum=label_map.checksum,
        image_size_px=SIZE_PX,
    )


def member_trial(name: str, seed: int, protocol: Protocol) -> ResolvedTrial:
    train = {**RECIPES[name], "epochs": EPOCHS, "backbone_learning_rate_factor": 0.5}
    options = {"backbone": "tf_efficientnet_lite0", "mode": "finetune", "train": train}
    return resolve_trial(Variant.model_validate(options), name=name, seed=seed, protocol=protocol)


def top1_on_test(fitted: Fitted, records: pl.DataFrame, pixels: Pixels, label_map: LabelMap) -> float:
    rows = (records["split"] == "test").to_numpy()
    images_nchw = pixels.of(records, fitted.classifier.preprocessing)[rows]
    labels_n = records.filter(split="test")["label"].map_elements(label_map.index, return_dtype=pl.Int64).to_numpy()
    return score(predict(fitted.classifier, images_nchw), labels_n, "top1")


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not GROCERY.is_dir(), reason="the grocery photographs do not lie beside the project")
def test_bench_soup__beside_the_best_member(tmp_path: Path) -> None:
    records = grocery_records()
    label_map = LabelMap.from_labels(records["label"])
    protocol, pixels = protocol_of(label_map), Pixels(GROCERY, spill=tmp_path / "spill")
    members: dict[str, Member] = {}
    print("\n| what | accepted | members | val top-1 | test top-1 | s |\n| --- | --- | --- | --- | --- | --- |")
    for name, seed in TRIALS:
        trial, started = member_trial(name, seed, protocol), time.perf_counter()
        work = tmp_path / f"{trial.trial}_work"
        fitted = fit_network_trial(trial, records, pixels, label_map, device="cpu", work_dir=work)
        identity = save_checkpoint(fitted.classifier, tmp_path / trial.trial, label_map=label_map, trial=trial)
        members[trial.trial] = Member(trial=trial, config_hash=trial.config_hash, checkpoint_id=identity)
        val, seconds = fitted.history["val_metric"].max(), time.perf_counter() - started
        test = top1_on_test(fitted, records, pixels, label_map)
        print(f"| {trial.trial} | | 1 | {val:.4f} | {test:.4f} | {seconds:.0f} |", flush=True)
    for what, (mode, combine, keys) in COMBINATIONS.items():
        chosen = [members[key] for key in keys or members]
        variant = Variant.model_validate({"mode": mode, "of": tuple(RECIPES), "combine": combine})
        trial = resolve_combination(variant, name="all", seed=0, protocol=protocol, members=chosen)
        folders, started = (
            [(member.trial.trial, tmp_path / member.trial.trial) for member in chosen],
            time.perf_counter(),
        )
        fitted = fit_combination_trial(trial, records, pixels, label_map, folders, device="cpu")
        said, seconds = fitted.summary, time.perf_counter() - started
        test = top1_on_test(fitted, records, pixels, label_map)
        uniform = f" (uniform {said['uniform_val_metric']:.4f})" if mode == "soup" else ""
        print(
            f"| {what} | {said['accepted']} | {said['members_included']} of {said['members']} "
            f"| {said['combined_val_metric']:.4f}{uniform} | {test:.4f} | {seconds:.0f} |",
            flush=True,
        )
        assert said["combined_val_metric"] >= said["best_member_val_metric"] or not said["accepted"]
