"""`kestrel sql` over 1,000 runs and 10 million predictions: seconds of each question, and the memory of its process."""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from platform_assets.stores.mlflow_database import create_database
from platform_assets.stores.questions import QUESTIONS
from platform_assets.stores.tables import Tables
from platform_tests.benchmarks.launched import Launched, launched

EXPERIMENTS, VARIANTS, SEEDS, IMAGES, CLASSES = 20, 10, 5, 10_000, 20
METRICS = ("top1", "top5", "balanced_accuracy", "macro_f1", "loss", "ece")
PER_CLASS = """
SELECT experiment, truth, count(*) AS images, avg(correct::INT) AS recall, avg(confidence) AS confidence
FROM predictions WHERE part = 'test' GROUP BY experiment, truth ORDER BY recall LIMIT 20"""
HARDEST = """
SELECT image_id, any_value(path) AS path, count(*) AS trials, avg(correct::INT) AS fraction_right
FROM predictions WHERE part = 'test' GROUP BY image_id ORDER BY fraction_right LIMIT 20"""
ONE_TRIAL = "SELECT * FROM logits WHERE dataset = 'd3' AND experiment = 'e3' AND trial = 'v3__s1'"
QUERIES = {
    **{f"--question {name}": question.sql for name, question in QUESTIONS.items()},
    "count of predictions": "SELECT count(*) AS predictions FROM predictions",
    "recall of each class and experiment": PER_CLASS,
    "images that most trials get wrong": HARDEST,
    "logits of one trial": ONE_TRIAL,
    "all predictions, sorted": "SELECT * FROM predictions ORDER BY confidence, path",
}


def _write_tables(tables: Tables) -> None:
    random, names = np.random.default_rng(0), [f"class {number}" for number in range(CLASSES)]
    ids = [random.bytes(32).hex() for _ in range(IMAGES)]
    truth_n = random.integers(0, CLASSES, IMAGES)
    images = pl.DataFrame(
        {
            "image_id": ids,
            "path": [f"{names[truth]}/{number:06}.jpg" for number, truth in enumerate(truth_n)],
            "part": ["val" if number % 4 == 0 else "test" for number in range(IMAGES)],
            "truth": [names[truth] for truth in truth_n],
        }
    )
    for experiment in range(EXPERIMENTS):
        key = (f"d{experiment}", f"e{experiment}")
        for variant in range(VARIANTS):
            for seed in range(SEEDS):
                trial = f"v{variant}__s{seed}"
                logits_nk = random.normal(size=(IMAGES, CLASSES)).astype(np.float32)
                logits_nk[np.arange(IMAGES), truth_n] += 2 + 0.1 * variant
                tables.write((*key, "predictions"), _predictions(images, names, truth_n, logits_nk), trial)
                tables.write((*key, "metrics"), _metrics(trial, variant, seed, random), trial)
        board = {"variant": [f"v{variant}" for variant in range(VARIANTS)], "metric": "macro_f1"}
        tables.write((*key, "leaderboard"), pl.DataFrame(board))


def _predictions(images: pl.DataFrame, names: list[str], truth_n: np.ndarray, logits_nk: np.ndarray) -> pl.DataFrame:
    """As vision.evaluation.predictions_frame makes it."""
    prediction_n = logits_nk.argmax(axis=1)
    powers_nk = np.exp(logits_nk)
    probabilities_nk = (powers_nk / powers_nk.sum(axis=1, keepdims=True)).astype(np.float32)
    return images.with_columns(
        pl.Series("prediction", [names[index] for index in prediction_n]),
        pl.Series("truth_index", truth_n.astype(np.int32)),
        pl.Series("prediction_index", prediction_n.astype(np.int32)),
        pl.Series("correct", truth_n == prediction_n),
        pl.Series("confidence", probabilities_nk.max(axis=1)),
        pl.Series("logits", logits_nk).cast(pl.List(pl.Float32)),
        pl.Series("probabilities", probabilities_nk).cast(pl.List(pl.Float32)),
    )


def _metrics(trial: str, variant: int, seed: int, random: np.random.Generator) -> pl.DataFrame:
    row = {"trial": trial, "variant": f"v{variant}", "seed": seed, "train_seconds": 5.0 + variant}
    row |= {f"{part}_{name}": random.uniform() for part in ("val", "test") for name in METRICS}
    row |= {
        "label_map_checksum": "m" * 64,
        "val_ids_sha256": "v" * 64,
        "test_ids_sha256": "t" * 64,
        "test_images": 7500,
        **{"dataset_version": "d" * 16, "protocol": '{"resize": "squash"}', "metric_code": "c" * 12},
    }
    return pl.DataFrame([row])


def _write_runs(database: Path) -> None:
    """What Runs.record_trial leaves in MLflow's tables for each trial, by plain SQL: the server takes 0.2 s a run."""
    create_database(database)
    now = int(time.time() * 1000)
    with sqlite3.connect(database) as connection:
        for experiment in range(EXPERIMENTS):
            said = (experiment + 1, f"d{experiment}/e{experiment}", "active")
            connection.execute("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (?, ?, ?)", said)
            for variant in range(VARIANTS):
                for seed in range(SEEDS):
                    _write_run(connection, experiment, variant, seed, now)


def _write_run(connection: sqlite3.Connection, experiment: int, variant: int, seed: int, now: int) -> None:
    run_id = f"{experiment:08x}{variant:08x}{seed:016x}"
    started = now - seed * 4 * 24 * 3600 * 1000
    connection.execute(
        "INSERT INTO runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, experiment_id) "
        "VALUES (?, ?, 'FINISHED', ?, ?, 'active', ?)",
        (run_id, f"v{variant}__s{seed}", started, started + 9000, experiment + 1),
    )
    params = {"metric": "macro_f1", **{f"train.option_{number}": str(number) for number in range(40)}}
    metrics = {f"{part}_{name}": seed / 10 for part in ("val", "test") for name in METRICS}
    asset = f"d{experiment}/e{experiment}/checkpoint"
    # Five runs of one trial over the weeks: two of them this week, so that there are regressions to be found.
    tags = {
        "asset": asset,
        "partition": f"v{variant}__s0",
        "config_hash": f"{seed}" * 64,
        "data_version": f"{seed}" * 16,
    }
    many, rows = connection.executemany, "(key, value, run_uuid) VALUES (?, ?, ?)"
    many(f"INSERT INTO params {rows}", [(key, value, run_id) for key, value in params.items()])
    many(f"INSERT INTO tags {rows}", [(key, value, run_id) for key, value in tags.items()])
    latest = "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, 0, 0, ?)"
    many(latest, [(key, value, started, run_id) for key, value in metrics.items()])


def _asked(folder: Path, query: str) -> tuple[Launched, int]:
    """What `kestrel sql` took, and the lines of its answer."""
    answer = folder / "answer.csv"
    kestrel = str(Path(sys.executable).with_name("kestrel"))
    command = [kestrel, "sql", query, "--format", "csv", "--out", str(answer)]
    took = launched(command, {"KESTREL_ROOT": str(folder)})
    with answer.open("rb") as file:
        return took, sum(1 for _ in file)


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_bench_sql__questions_to_a_thousand_runs_and_ten_million_predictions(tmp_path: Path) -> None:
    _write_tables(Tables(tmp_path / "data/tables"))
    (tmp_path / "data/mlflow").mkdir()
    _write_runs(tmp_path / "data/mlflow/mlflow.db")
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    print(f"\n{EXPERIMENTS * VARIANTS * SEEDS:,} trials of {IMAGES:,} images, {size / 1e9:.1f} GB of tables")
    print("| asked | s | again, s | CPU s | peak MB | lines |\n| --- | --- | --- | --- | --- | --- |")
    peaks = {}
    for name, query in QUERIES.items():
        (first, _), (again, lines) = _asked(tmp_path, query), _asked(tmp_path, query)
        peaks[name] = again.peak_mb
        print(
            f"| {name} | {first.wall_s:.1f} | {again.wall_s:.1f} | {again.cpu_s:.1f} | {again.peak_mb:.0f} | {lines} |"
        )
    assert max(peaks.values()) < 2000
