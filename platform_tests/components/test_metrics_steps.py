"""Metrics through the graph: costs, slices, coarse labels, groups, and rows that the leaderboard refuses to rank."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from platform_assets.stores.tables import Tables
from platform_assets.vision.evaluation.comparability import Comparability
from platform_assets.vision.evaluation.metrics import HEADLINES, Metrics
from platform_tests.components.projects import (
    CNN,
    RECORDS,
    Project,
    dataset_yaml,
    experiment_yaml,
    failure,
    lasting_project,
    metadata,
    write_images,
)

TRIALS = ("cnn__s0", "wide__s0")
SHORT = {**CNN, "train": {"epochs": 1, "warmup_epochs": 0, "max_steps": 2, "augmentation": "none"}}
ASKED: dict[str, Any] = {
    "costs": {"red": {"blue": 10, "green": 0}},
    "slices": ["camera", "brightness"],
    "variants": {"cnn": SHORT, "wide": {**SHORT, "image_size_px": 48}},
    "seeds": [0],
    "retrain": None,
}


def _table(images: Path) -> dict[str, Any]:
    """Four shots of each scene, two cameras, a coarse label."""
    rows = ["path,label,kind,camera,scene"]
    for number, place in enumerate(sorted(images.rglob("*.png"))):
        label = place.parent.name
        kind = "warm" if label == "red" else "cold"
        rows.append(f"{label}/{place.name},{label},{kind},{'old' if number % 2 else 'new'},s{number // 4}")
    (images / "labels.csv").write_text("\n".join(rows))
    columns = {"path": "path", "label": "label", "coarse_label": "kind"}
    source = {"kind": "table", "path": str(images), "files": "labels.csv", "header": True, "columns": columns}
    split = {"kind": "stratified", "train": 0.5, "val": 0.25, "test": 0.25, "group_by": "scene"}
    return dataset_yaml("", source={**source, "extra": {"camera": "camera", "scene": "scene"}}, split=split)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("measured")
    images = write_images(folder / "images", per_class=16, side=24)
    with lasting_project(folder, images, mlflow_database) as made:
        made.write("photos", _table(images))
        made.write("first", experiment_yaml(**ASKED))
        made.materialize(RECORDS)
        yield made


def _tables(made: Project) -> Tables:
    return Tables(made.data / "tables")


def _trained(made: Project, *assets: str, raises: bool = True) -> dg.ExecuteInProcessResult:
    selection = " or ".join(f'key:"photos/first/{asset}"' for asset in assets)
    return made.materialize(selection, partitions=TRIALS, raises=raises)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"costs": {"red": {"bleu": 1}}}, "costs.red.bleu: label 'bleu' is not one of the 3 classes; nearest: ['blue'"),
        ({"slices": ["kamera"]}, "slices: 'kamera' is no column to slice by; there are label, "),
    ],
)
def test_options__that_do_not_fit_the_data_are_refused_before_training(
    measured: Project, asked: dict[str, Any], said: str
) -> None:
    measured.write("first", experiment_yaml(**ASKED | asked))
    assert said in failure(_trained(measured, "checkpoint", raises=False))
    assert not _tables(measured).exists(["photos", "first", "checkpoint"], "cnn__s0")


@pytest.fixture(scope="module")
def result(measured: Project) -> dg.ExecuteInProcessResult:
    measured.write("first", experiment_yaml(**ASKED))
    return _trained(measured, "checkpoint", "predictions", "metrics")


def test_metrics__of_groups_costs_and_coarse_labels(measured: Project, result: dg.ExecuteInProcessResult) -> None:
    row = _tables(measured).read(["photos", "first", "checkpoint"], "cnn__s0").row(0, named=True)
    test = Metrics.model_validate(json.loads(Path(row["folder_url"], "metrics.json").read_text())["test"])
    predictions = _tables(measured).read(["photos", "first", "predictions"], "cnn__s0").filter(part="test")
    assert test.images == predictions.height
    assert test.units == predictions["group"].n_unique() == test.images // 4
    assert test.coarse is not None
    assert test.coarse.labels == ("cold", "warm")
    wrong = predictions.filter(~pl.col("correct")).select("truth", "prediction").rows()
    costs = sum({("red", "blue"): 10, ("red", "green"): 0}.get(pair, 1) for pair in wrong)
    assert test.mean_cost == pytest.approx(costs / test.images)
    shown = metadata(result, "photos/first/metrics", "cnn__s0")
    figures = {record.data["figure"]: record.data["test"] for record in shown["figures"].records}
    assert figures.keys() == {*HEADLINES, "images"}
    assert figures["macro_auroc"] == pytest.approx(test.macro_auroc, rel=1e-4)


def test_metrics__slices_are_a_table_and_a_file_of_the_trial(
    measured: Project, result: dg.ExecuteInProcessResult
) -> None:
    pieces = _tables(measured).read(["photos", "first", "slices"], "cnn__s0")
    assert set(pieces["column"]) == {"camera", "brightness"}
    assert set(pieces.filter(column="camera")["value"]) == {"new", "old"}
    row = _tables(measured).read(["photos", "first", "checkpoint"], "cnn__s0").row(0, named=True)
    assert pl.read_parquet(Path(row["folder_url"], "slices.parquet")).equals(pieces.drop("trial"))
    assert "worst_slices" in metadata(result, "photos/first/metrics", "cnn__s0")


def test_leaderboard__ranks_resolutions_and_refuses_another_split(
    measured: Project, result: dg.ExecuteInProcessResult
) -> None:
    tables, key = _tables(measured), ["photos", "first", "metrics"]
    rows = [tables.read(key, trial) for trial in TRIALS]
    assert rows[0]["comparability"].item() == rows[1]["comparability"].item()
    assert rows[0]["image_size_px"].item() != rows[1]["image_size_px"].item()
    measured.materialize('key:"photos/first/leaderboard"')
    parts = rows[1].select(*Comparability.model_fields).row(0, named=True) | {"split_sha256": "0" * 64}
    tables.write(
        key, rows[1].with_columns(**{k: pl.lit(v) for k, v in Comparability(**parts).columns.items()}), TRIALS[1]
    )
    said = failure(measured.materialize('key:"photos/first/leaderboard"', raises=False))
    assert "'cnn__s0' and 'wide__s0' have different splits under seed 0" in said
    assert "materialize both again" in said
    tables.write(key, rows[1].drop("comparability"), TRIALS[1])
    said = failure(measured.materialize('key:"photos/first/leaderboard"', raises=False))
    assert "'wide__s0' has no comparability hash, older code made its row" in said
    tables.write(key, rows[1], TRIALS[1])


@pytest.mark.slow  # the import alone takes 9 s
def test_metrics__spectral_alpha_is_a_column_when_it_is_asked_for(measured: Project, result: Any) -> None:
    assert _tables(measured).read(["photos", "first", "metrics"], "cnn__s0")["spectral_alpha"].item() is None
    measured.write("first", experiment_yaml(**ASKED, spectral_alpha=True))
    _trained(measured, "metrics")
    assert 1 < _tables(measured).read(["photos", "first", "metrics"], "cnn__s0")["spectral_alpha"].item() < 100


def test_metrics__version_follows_what_is_asked_of_it_and_checkpoints_do_not(
    measured: Project, result: dg.ExecuteInProcessResult
) -> None:
    def versions(of: dg.ExecuteInProcessResult) -> dict[str, str]:
        found = [event.materialization for event in of.get_asset_materialization_events()]
        return {"/".join(m.asset_key.path): m.tags["dagster/data_version"] for m in found}

    measured.write("first", experiment_yaml(**ASKED | {"costs": None}))
    before, after = versions(result), versions(_trained(measured, "checkpoint", "predictions", "metrics"))
    changed = {asset for asset, version in before.items() if after[asset] != version}
    assert changed == {"photos/first/metrics"}
    row = _tables(measured).read(["photos", "first", "metrics"], "cnn__s0").row(0, named=True)
    assert row["test_cost_accuracy"] is None
