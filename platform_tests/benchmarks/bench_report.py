"""Leaderboard and report of 500 trials of elpv's size, with their tables and folders on disk as trials leave them."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.report_steps import html_page, report_facts
from platform_assets.stores.outputs import Outputs
from platform_assets.stores.stamps import environment_stamp
from platform_assets.stores.tables import Tables
from platform_assets.vision.calibration import calibrate, report
from platform_assets.vision.cards.report_markdown import report_markdown
from platform_assets.vision.comparability import Comparability, fixed_preprocessing
from platform_assets.vision.comparison import trial_row
from platform_assets.vision.evaluation import compute_metrics, logits_and_truth, predictions_frame
from platform_assets.vision.label_map import LabelMap
from platform_assets.vision.leaderboards import leaderboard
from platform_assets.vision.long_tail import ShotAccuracy
from platform_assets.vision.metrics import Metrics
from platform_assets.vision.recipes import resolve_trial
from platform_tests.vision.pictures import encoded, noise

VARIANTS, SEEDS = 100, 5
CLASSES, VAL_IMAGES, TEST_IMAGES = 4, 394, 656
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


def _predictions(number: int) -> pl.DataFrame:
    """Right on about 80 to 85 % of the images, the same images being hard for all trials."""
    shared, own = np.random.default_rng(0), np.random.default_rng(number + 1)
    images = VAL_IMAGES + TEST_IMAGES
    truth_n = shared.integers(CLASSES, size=images)
    logits_nk = shared.normal(size=(images, CLASSES)) + own.normal(scale=0.7, size=(images, CLASSES))
    logits_nk[np.arange(images), truth_n] += 2.2 + 0.3 * number / (VARIANTS * SEEDS)
    rows = pl.DataFrame(
        {
            "image_id": [hashlib.sha256(str(n).encode()).hexdigest() for n in range(images)],
            "path": [f"{n}.jpg" for n in range(images)],
            "part": ["val"] * VAL_IMAGES + ["test"] * TEST_IMAGES,
            "label": [LABELS.names[k] for k in truth_n],
        }
    )
    return predictions_frame(rows, logits_nk.astype(np.float32), LABELS)


def _leave_behind(spec: ExperimentSpec, tables: Tables, outputs: Outputs) -> None:
    """What 500 trials leave in tables and folders, each with metrics of its own predictions."""
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
    history = pl.DataFrame({"epoch": range(1, 11), "val_metric": np.linspace(0.5, 0.8, 10), "val_loss": 0.5})
    for number, (key, (name, seed)) in enumerate(spec.trials.items()):
        trial = resolve_trial(spec.variants[name], name=name, seed=seed, protocol=spec.protocol(LABELS.checksum))
        frame = _predictions(number)
        val, test = (compute_metrics(frame, LABELS, part) for part in ("val", "test"))
        fitted = calibrate(*logits_and_truth(frame, "val"), spec.uncertainty)
        work = outputs.working("checkpoint", key, trial.config_hash, "v1")
        (work / "ckpt.safetensors").write_bytes(key.encode())
        (work / "env.json").write_text(json.dumps({**stamp, "seed": seed}))
        (work / "metrics.json").write_text(json.dumps({"test": test.model_dump(mode="json")}))
        history.write_parquet(work / "history.parquet")
        checkpoint_id = hashlib.sha256(key.encode()).hexdigest()[:16]
        folder = outputs.publish(work, run_id="bench", config_hash=trial.config_hash, checkpoint_id=checkpoint_id)
        row = trial_row(
            trial,
            val=val,
            test=test,
            shots=ShotAccuracy(many=test.top1, medium=None, few=None),
            certainty=report(fitted, *logits_and_truth(frame, "test")),
            comparability=_comparability(spec, val, test),
            checkpoint_id=checkpoint_id,
            parameters=1_200_000,
            train_seconds=60.0,
        )
        tables.write([*spec.key, "predictions"], frame, key)
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


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExperimentSpec, Tables, Outputs, Path]:
    folder = tmp_path_factory.mktemp("many")
    spec, tables = _spec(), Tables(folder / "tables")
    outputs = Outputs(str(folder / "outputs"), scratch=folder / "scratch")
    (folder / "images").mkdir()
    picture = encoded(noise(0, width=300, height=300), "JPEG")
    for number in range(VAL_IMAGES, VAL_IMAGES + TEST_IMAGES):
        (folder / "images" / f"{number}.jpg").write_bytes(picture)
    tables.write_version(["cells", "records"], "v1", pl.DataFrame({"image_id": ["0"]}))
    _leave_behind(spec, tables, outputs)
    return spec, tables, outputs, folder / "images"


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_bench_report__of_500_trials_in_under_10_s(
    left_behind: tuple[ExperimentSpec, Tables, Outputs, Path],
) -> None:
    spec, tables, outputs, images = left_behind
    started = time.monotonic()
    rows = pl.concat([tables.read([*spec.key, "metrics"], trial) for trial in spec.trials], how="vertical_relaxed")
    predictions = {trial: tables.read([*spec.key, "predictions"], trial) for trial in spec.trials}
    read_s = time.monotonic() - started
    board = leaderboard(rows, predictions, baseline=spec.baseline, metric=spec.metric)
    compared_s = time.monotonic() - started - read_s
    tables.write([*spec.key, "leaderboard"], board)
    started = time.monotonic()
    facts = report_facts(spec, tables, outputs)
    gathered_s = time.monotonic() - started
    page = html_page(facts, images)
    written_s = time.monotonic() - started - gathered_s
    report_markdown(facts)
    total_s = time.monotonic() - started
    print(
        "\n| trials | leaderboard: read, compare, s | report: gather, page, all, s | page, kB |\n| --- | --- | --- | --- |"
    )
    print(f"| {len(spec.trials)} | {read_s:.1f}, {compared_s:.1f} ", end="")
    print(f"| {gathered_s:.1f}, {written_s:.1f}, {total_s:.1f} | {len(page.encode()) / 1e3:.0f} |")
    assert facts.trials.height == 500
    assert total_s < 10
