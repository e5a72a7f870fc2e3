"""Leaderboard and report of 500 trials, with their tables and folders on disk as trials leave them.

python -m platform_tests.benchmarks.bench_report FOLDER makes both and prints their seconds.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.leaderboard_steps import leaderboard
from platform_assets.components.report_steps import html_page, report_facts
from platform_assets.stores.outputs import Outputs
from platform_assets.stores.stamps import environment_stamp
from platform_assets.stores.tables import Tables
from platform_assets.vision.cards.report_markdown import report_markdown
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.calibration import calibrate
from platform_assets.vision.evaluation.calibration_report import CalibrationReport, report_of
from platform_assets.vision.evaluation.comparability import Comparability, fixed_preprocessing
from platform_assets.vision.evaluation.comparison import trial_row
from platform_assets.vision.evaluation.long_tail import ShotAccuracy
from platform_assets.vision.evaluation.metrics import Metrics
from platform_assets.vision.evaluation.predictions import compute_metrics, logits_and_truth, predictions_frame
from platform_assets.vision.recipes.resolving import resolve_trial
from platform_tests.benchmarks.launched import launched
from platform_tests.vision.pictures import encoded, noise

VARIANTS, SEEDS = 100, 5
CLASSES = 4
ELPV, TEN_MILLION = (394, 656), (4_000, 16_000)  # images of val and test
DIFFERENT = 20  # predictions; the trials take them by turns
LABELS = LabelMap(names=tuple(f"class {k}" for k in range(CLASSES)))
ROOT = Path(__file__).parents[2]


def _spec() -> ExperimentSpec:
    """Variants that differ in their learning rate alone."""
    rates = np.linspace(1e-4, 1e-2, VARIANTS)
    variants = {
        f"rate_{n}": {"backbone": "baseline_cnn", "mode": "scratch", "train": {"learning_rate": float(rate)}}
        for n, rate in enumerate(rates)
    }
    facts = {
        "name": "many",
        "dataset": "cells",
        "description": "Many rates.",
        "image_size_px": 32,
        "metric": "macro_f1",
    }
    return ExperimentSpec.model_validate(
        {**facts, "seeds": list(range(SEEDS)), "baseline": "rate_0", "variants": variants}
    )


def _predictions(number: int, val_images: int, test_images: int) -> pl.DataFrame:
    """Right on about 80 to 85 % of the images, the same images being hard for all trials."""
    shared, own = np.random.default_rng(0), np.random.default_rng(number + 1)
    images = val_images + test_images
    truth_n = shared.integers(CLASSES, size=images)
    logits_nk = shared.normal(size=(images, CLASSES)) + own.normal(scale=0.7, size=(images, CLASSES))
    logits_nk[np.arange(images), truth_n] += 2.2 + 0.3 * number / DIFFERENT
    rows = pl.DataFrame(
        {
            "image_id": [hashlib.sha256(str(n).encode()).hexdigest() for n in range(images)],
            "path": [f"{n}.jpg" for n in range(images)],
            "part": ["val"] * val_images + ["test"] * test_images,
            "label": [LABELS.names[k] for k in truth_n],
        }
    )
    return predictions_frame(rows, logits_nk.astype(np.float32), LABELS)


def _leave_behind(folder: Path, images: tuple[int, int]) -> None:
    """What 500 trials leave in tables and folders."""
    spec, (tables, outputs) = _spec(), _stores(folder)
    (folder / "images").mkdir()
    picture = encoded(noise(0, width=300, height=300), "JPEG")
    for number in range(sum(images)):
        (folder / "images" / f"{number}.jpg").write_bytes(picture)
    tables.write_version(["cells", "records"], "v1", pl.DataFrame({"image_id": ["0"]}))
    stamp = environment_stamp(
        run_id="bench",
        config_hash="0" * 64,
        seed=0,
        device="cpu",
        fp16=False,
        tiny_train_subset_path=None,
        tiny_infer_subset_path=None,
        repository=ROOT,
    )
    evaluated = [_evaluated(spec, _predictions(number, *images)) for number in range(DIFFERENT)]
    for number, key in enumerate(spec.trials):
        _leave_trial(spec, tables, outputs, key, evaluated[number % DIFFERENT], stamp)


def _stores(folder: Path) -> tuple[Tables, Outputs]:
    return Tables(folder / "tables"), Outputs(str(folder / "outputs"), scratch=folder / "scratch")


class _Evaluated(NamedTuple):
    frame: pl.DataFrame
    val: Metrics
    test: Metrics
    certainty: CalibrationReport


def _evaluated(spec: ExperimentSpec, frame: pl.DataFrame) -> _Evaluated:
    val, test = (compute_metrics(frame, LABELS, part) for part in ("val", "test"))
    fitted = calibrate(*logits_and_truth(frame, "val"), spec.uncertainty)
    return _Evaluated(frame, val, test, report_of(fitted, frame))


def _leave_trial(
    spec: ExperimentSpec, tables: Tables, outputs: Outputs, key: str, of: _Evaluated, stamp: dict[str, Any]
) -> None:
    name, seed = spec.trials[key]
    trial = resolve_trial(spec.variants[name], name=name, seed=seed, protocol=spec.protocol(LABELS.checksum))
    work = outputs.working("checkpoint", key, trial.config_hash, "v1")
    (work / "ckpt.safetensors").write_bytes(key.encode())
    (work / "env.json").write_text(json.dumps({**stamp, "seed": seed}))
    (work / "metrics.json").write_text(json.dumps({"test": of.test.model_dump(mode="json")}))
    history = pl.DataFrame({"epoch": range(1, 11), "val_metric": np.linspace(0.5, 0.8, 10), "val_loss": 0.5})
    history.write_parquet(work / "history.parquet")
    checkpoint_id = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = outputs.publish(work, run_id="bench", config_hash=trial.config_hash, checkpoint_id=checkpoint_id)
    row = trial_row(
        trial,
        val=of.val,
        test=of.test,
        shots=ShotAccuracy(many=of.test.top1, medium=None, few=None),
        certainty=of.certainty,
        comparability=_comparability(spec, of.val, of.test),
        checkpoint_id=checkpoint_id,
        parameters=1_200_000,
        train_seconds=60.0,
    )
    tables.write([*spec.key, "predictions"], of.frame, key)
    tables.write([*spec.key, "metrics"], row, key)
    tables.write([*spec.key, "checkpoint"], pl.DataFrame([{"trial": key, "folder_url": folder.url}]), key)


def _comparability(spec: ExperimentSpec, val: Metrics, test: Metrics) -> Comparability:
    return Comparability(
        dataset_version="v1",
        label_map_checksum=LABELS.checksum,
        split_sha256="5" * 64,
        val_ids_sha256=val.image_ids_sha256,
        test_ids_sha256=test.image_ids_sha256,
        protocol=fixed_preprocessing(spec.protocol(LABELS.checksum)),
        metric_code="c0de",
    )


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("images", "most_s"), [(ELPV, 10), (TEN_MILLION, None)])
def test_bench_report__of_500_trials(tmp_path: Path, images: tuple[int, int], most_s: float | None) -> None:
    _leave_behind(tmp_path, images)
    took = launched([sys.executable, "-m", "platform_tests.benchmarks.bench_report", str(tmp_path)])
    made = json.loads(took.said)
    print("\n| trials, predictions | leaderboard s | report: gather, page, all, s | page, kB | peak MB |")
    print("| --- | --- | --- | --- | --- |")
    print(f"| {VARIANTS * SEEDS}, {VARIANTS * SEEDS * sum(images):,} | {made['leaderboard_s']:.1f} ", end="")
    print(f"| {made['gather_s']:.1f}, {made['page_s']:.1f}, {made['report_s']:.1f} ", end="")
    print(f"| {made['page_bytes'] / 1e3:.0f} | {took.peak_mb:.0f} |")
    assert made["trials"] == 500
    assert took.peak_mb < 2000
    assert most_s is None or made["leaderboard_s"] + made["report_s"] < most_s


def main(folder: Path) -> None:
    spec, (tables, outputs) = _spec(), _stores(folder)
    begun = time.monotonic()
    leaderboard(spec, tables)
    led = time.monotonic()
    facts = report_facts(spec, tables, outputs)
    gathered = time.monotonic()
    page = html_page(facts, folder / "images")
    paged = time.monotonic()
    report_markdown(facts)
    seconds = {"leaderboard_s": led - begun, "gather_s": gathered - led, "page_s": paged - gathered}
    seconds["report_s"] = time.monotonic() - led
    print(json.dumps({**seconds, "page_bytes": len(page.encode()), "trials": facts.trials.height}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
