"""The shipped questions, asked of real tables and a real MLflow database whose answers are known."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from platform_assets.stores.analytics import Analytics
from platform_assets.stores.questions import QUESTIONS
from platform_assets.stores.run_table import RunTable
from platform_assets.stores.runs import Runs, TrialRun
from platform_assets.stores.tables import Tables

DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tables")


@pytest.fixture
def runs(mlflow_database: Path, tmp_path: Path) -> Runs:
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    return Runs(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts"))


def answers(question: str, tables: Tables, runs: Runs) -> list[dict[str, Any]]:
    analytics = Analytics(tables.root, RunTable(runs.tracking_uri, tables.root.parent / "cache"))
    with analytics.answer(QUESTIONS[question].sql) as relation:
        return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def write(tables: Tables, key: tuple[str, str], metric: str, variants: Mapping[str, list[float]], **more: Any) -> None:
    """One experiment: the score of each seed of each variant, on test; on val it is 0.1 less."""
    for variant, scores in variants.items():
        for seed, score in enumerate(scores):
            others = {"top1", "macro_f1", "balanced_accuracy"} - {metric}
            row = {"trial": f"{variant}__s{seed}", "variant": variant, "seed": seed, "train_seconds": 10.0}
            row |= {f"val_{metric}": score - 0.1, f"test_{metric}": score, "label_map_checksum": "m"}
            row |= {f"{part}_{name}": 0.0 for part in ("val", "test") for name in others}
            row |= {"val_ids_sha256": "v", "test_ids_sha256": "t", "test_images": 100}
            row |= {"dataset_version": "1", "protocol": "squash", "metric_code": "c"}
            tables.write((*key, "metrics"), pl.DataFrame([row | more.get(variant, {})]), f"{variant}__s{seed}")
    tables.write((*key, "leaderboard"), pl.DataFrame({"variant": list(variants), "metric": metric}))


@pytest.mark.parametrize("part", ["dataset_version", "protocol", "metric_code"])
def test_best__does_not_rank_what_a_leaderboard_would_not(tables: Tables, runs: Runs, part: str) -> None:
    write(tables, ("elpv", "probes"), "top1", {"cnn": [0.80]})
    write(tables, ("elpv", "networks"), "top1", {"tuned": [0.83]}, tuned={part: "another"})
    assert [row["variant"] for row in answers("best", tables, runs)] == ["tuned", "cnn"]


def test_best__of_each_dataset_by_val_over_seeds_across_experiments(tables: Tables, runs: Runs) -> None:
    lucky = {"lucky": {"val_top1": 0.5}}  # the best on test, which has no say
    write(tables, ("elpv", "probes"), "top1", {"cnn": [0.80, 0.82], "lucky": [0.99]}, **lucky)
    write(tables, ("elpv", "networks"), "top1", {"tuned": [0.83, 0.85]})
    write(tables, ("shop", "probes"), "macro_f1", {"probe": [0.7]})
    found = answers("best", tables, runs)
    assert [(row["dataset"], row["experiment"], row["variant"], row["metric"]) for row in found] == [
        ("elpv", "networks", "tuned", "top1"),
        ("shop", "probes", "probe", "macro_f1"),
    ]
    assert found[0]["val_mean"] == pytest.approx(0.74)
    assert found[0]["test_mean"] == pytest.approx(0.84)
    assert (found[0]["variants"], found[0]["seeds"], found[0]["test_images"]) == (3, 2, 100)


def test_best__variants_on_other_images_are_not_compared(tables: Tables, runs: Runs) -> None:
    write(tables, ("elpv", "old"), "top1", {"easy": [0.95]}, easy={"test_ids_sha256": "older"})
    write(tables, ("elpv", "new"), "top1", {"cnn": [0.8]})
    found = answers("best", tables, runs)
    assert [(row["experiment"], row["variant"], row["variants"]) for row in found] == [
        ("old", "easy", 1),
        ("new", "cnn", 1),
    ]


def test_seed_spread__the_widest_first_and_single_seeds_left_out(tables: Tables, runs: Runs) -> None:
    write(tables, ("elpv", "probes"), "macro_f1", {"calm": [0.80, 0.81], "wild": [0.5, 0.7, 0.9], "alone": [0.6]})
    wild, calm = answers("seed-spread", tables, runs)
    assert (wild["variant"], wild["seeds"], wild["each_seed"]) == ("wild", 3, [0.5, 0.7, 0.9])
    assert [wild["test_mean"], wild["test_std"], wild["test_range"]] == pytest.approx([0.7, 0.2, 0.4])
    assert calm["variant"] == "calm"


def test_cost_per_point__against_the_cheapest_of_the_experiment(tables: Tables, runs: Runs) -> None:
    seconds = {"tuned": {"train_seconds": 110.0}, "worse": {"train_seconds": 60.0}}
    write(tables, ("elpv", "probes"), "top1", {"probe": [0.80], "tuned": [0.85], "worse": [0.75]}, **seconds)
    probe, worse, tuned = answers("cost-per-point", tables, runs)
    assert [probe["variant"], worse["variant"], tuned["variant"]] == ["probe", "worse", "tuned"]
    assert {row["cheapest"] for row in (probe, worse, tuned)} == {"probe"}
    assert tuned["more_points"] == pytest.approx(5)
    assert tuned["seconds_per_point_gained"] == pytest.approx(20)
    assert tuned["seconds_per_point"] == pytest.approx(110 / 85)
    assert (probe["seconds_per_point_gained"], worse["seconds_per_point_gained"]) == (None, None)


def record(runs: Runs, trial: str, days_ago: float, test_top1: float, **changes: Any) -> None:
    started = int(time.time() * 1000 - days_ago * DAY_MS)
    said: dict[str, Any] = {
        "experiment": "elpv/probes",
        "asset": "elpv/probes/checkpoint",
        "partition": trial,
        "config_hash": "c",
        "data_version": f"{started}",
        "dagster_run_id": "0b7c",
        "status": "FINISHED",
        "started_ms": started,
        "ended_ms": started + 1000,
        "checkpoint_id": f"{started:016x}",
        "folder_url": "/outputs",
        "params": {"metric": "top1"},
        "metrics": {"test_top1": test_top1},
    }
    runs.record_trial(TrialRun(**(said | changes)))


def test_regressions__the_newest_of_this_week_against_the_newest_before(tables: Tables, runs: Runs) -> None:
    for days_ago, score in ((30, 0.95), (8, 0.90), (6, 0.95), (1, 0.85)):
        record(runs, "worse__s0", days_ago, score)
    record(runs, "better__s0", 8, 0.5)
    record(runs, "better__s0", 1, 0.6)
    record(runs, "old__s0", 20, 0.9)
    record(runs, "old__s0", 10, 0.1)
    record(runs, "failed__s0", 8, 0.9)
    record(runs, "failed__s0", 1, 0.1, status="FAILED")
    (row,) = answers("regressions", tables, runs)
    assert (row["dataset"], row["experiment"], row["trial"], row["metric"]) == ("elpv", "probes", "worse__s0", "top1")
    assert [row["before"], row["now"], row["change"]] == pytest.approx([0.90, 0.85, -0.05])
    assert (row["data_changed"], row["config_changed"]) == (True, False)
