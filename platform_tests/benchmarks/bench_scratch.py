"""baseline_cnn from scratch on two-class photographs (elpv): accuracy on test over the number of training images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.scanning import scan
from platform_assets.vision.datasets.sources import source_root
from platform_assets.vision.datasets.splits import assign_splits
from platform_assets.vision.evaluation.scores import score
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.recipes.resolving import Protocol, resolve_trial
from platform_assets.vision.recipes.variants import Variant
from platform_assets.vision.training.pixels import Pixels
from platform_assets.vision.trials.network_fitting import fit_network_trial
from platform_tests.benchmarks.demo import DATASET

SIZES = (100, 200, 400, 800)
MINUTES = 20
TRAIN: dict[str, Any] = {
    "learning_rate": 2e-3,
    "augmentation": "dihedral",
    "warmup_epochs": 2.0,
    "ema_decay": 0.99,
}


class Recipe(NamedTuple):
    """Of about the same cost: small pictures often, or large ones seldom."""

    size_px: int
    epochs: int
    more: dict[str, Any]

    def __str__(self) -> str:
        more = "".join(f", {name} {value:g}" for name, value in self.more.items())
        return f"{self.size_px} px, {self.epochs} epochs{more}"


RECIPES = (
    Recipe(96, 140, {}),
    Recipe(96, 100, {}),
    Recipe(128, 55, {}),
    Recipe(96, 100, {"mixup": 0.2, "random_erasing": 0.25}),
)


def elpv_records() -> tuple[Path, pl.DataFrame, LabelMap]:
    """Where the photographs lie, and their records, split as the demo's dataset says."""
    root = source_root(DATASET.source, Path.cwd())
    found = scan(DATASET.source.read(root), root)
    return root, assign_splits(found.records, DATASET.split), found.label_map


def with_fewer(records: pl.DataFrame, images: int) -> pl.DataFrame:
    """`images` of the train part, labels in their proportions, the smaller always inside of the larger; val and test whole."""
    train = records.filter(split="train").sort("label", "image_id")
    place = (pl.int_range(pl.len()).over("label") + 0.5) / pl.len().over("label")
    chosen = train.with_columns(place=place).sort("place", "image_id").head(images)["image_id"]
    return records.filter((pl.col("split") != "train") | pl.col("image_id").is_in(chosen.implode()))


def fitted_top1(
    root: Path, records: pl.DataFrame, label_map: LabelMap, work: Path, *, size_px: int, train: dict[str, Any]
) -> dict[str, float]:
    """One training from scratch: seconds, and val and test top-1 and macro-F1 of its best epoch."""
    variant = Variant.model_validate({"backbone": "baseline_cnn", "mode": "scratch", "train": train})
    protocol = Protocol(
        dataset="elpv",
        experiment="scratch",
        metric="macro_f1",
        label_map_checksum=label_map.checksum,
        image_size_px=size_px,
    )
    trial = resolve_trial(variant, name="cnn", seed=0, protocol=protocol)
    pixels, started = Pixels(root, spill=work / "spill"), time.perf_counter()
    fitted = fit_network_trial(trial, records, pixels, label_map, device="cpu", work_dir=work / "fit")
    figures: dict[str, float] = {"seconds": time.perf_counter() - started}
    for part in ("val", "test"):
        rows = records.with_row_index("row").filter(split=part)
        logits_nk = predict(fitted.classifier, pixels.of(records, trial.preprocessing)[rows["row"].to_numpy()])
        truth_n = rows["label"].map_elements(label_map.index, return_dtype=pl.Int64).to_numpy()
        for metric in ("top1", "macro_f1"):
            figures[f"{part}_{metric}"] = score(logits_nk, truth_n, metric)
    return figures


def _show(name: str, found: dict[str, float]) -> None:
    figures = " | ".join(f"{found[name]:.4f}" for name in ("val_macro_f1", "test_top1", "test_macro_f1"))
    print(f"| {name} | {figures} | {found['seconds']:.0f} |", flush=True)


@pytest.mark.bench
@pytest.mark.timeout(9 * MINUTES * 60)
def test_bench_scratch__more_images_make_a_better_network(tmp_path: Path) -> None:
    root, records, label_map = elpv_records()

    def trained(images: pl.DataFrame, name: str, recipe: Recipe) -> dict[str, float]:
        train = {**TRAIN, **recipe.more, "epochs": recipe.epochs, "patience_epochs": recipe.epochs}
        found = fitted_top1(root, images, label_map, tmp_path / name, size_px=recipe.size_px, train=train)
        _show(f"{name}, {recipe}", found)
        return found

    print("\n| training | val macro-F1 | test top-1 | test macro-F1 | s |\n| --- | --- | --- | --- | --- |")
    tried = {number: trained(records, f"all ({number})", recipe) for number, recipe in enumerate(RECIPES)}
    best = max(tried, key=lambda number: tried[number]["val_macro_f1"])
    reached = []
    for images in SIZES:
        # As many steps as for all images, up to twice the epochs.
        epochs = min(2 * RECIPES[best].epochs, RECIPES[best].epochs * 1574 // images)
        reached.append(trained(with_fewer(records, images), str(images), RECIPES[best]._replace(epochs=epochs)))
    assert all(found["seconds"] <= MINUTES * 60 for found in (*tried.values(), *reached))
    assert tried[best]["test_macro_f1"] > reached[0]["test_macro_f1"]
