"""What is done with trials when they are finished: stamped, replayed, tabled, published and asked about, on one real project."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from click.testing import CliRunner

from platform_assets.cli import main
from platform_assets.commands.results_page import read_results, results_page
from platform_assets.stores.questions import QUESTIONS
from platform_assets.stores.tables import Tables
from platform_assets.vision.training.computing_threads import computing_threads
from platform_tests.components.projects import PROBE, Project, experiment_yaml, lasting_project, metadata, write_images

SHORT = {"epochs": 1, "max_steps": 2, "warmup_epochs": 0, "batch_size": 8}
SMALL = {**PROBE, "image_size_px": 32}
FINETUNE = {"backbone": "tf_efficientnet_lite0", "mode": "finetune", "image_size_px": 32, "train": SHORT}
EXPERIMENT = experiment_yaml(seeds=[0], baseline="probe", variants={"probe": SMALL, "finetune": FINETUNE})
KEY = ("photos", "first")
TRIALS = ("probe__s0", "finetune__s0")


def keys(prefix: str, *names: str) -> str:
    return " or ".join(f'key:"{prefix}/{name}"' for name in names)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    """A probe and a short finetune of one backbone, up to the leaderboard."""
    folder = tmp_path_factory.mktemp("finished_trials")
    images = write_images(folder / "images", per_class=8)
    with lasting_project(folder, images, mlflow_database) as made:
        made.write("first", EXPERIMENT)
        made.materialize(keys("photos", "source", "records", "rejected", "label_map", "near_duplicates"))
        names = ("embeddings", "checkpoint", "predictions", "metrics", "leaderboard", "baseline_table")
        made.materialize(keys("photos/first", *names), partitions=TRIALS)
        yield made


@pytest.fixture(autouse=True)
def _inside(made: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("KESTREL_ROOT", str(made.folder))


def row(made: Project, asset: str, trial: str | None = None) -> dict[str, Any]:
    return Tables(made.data / "tables").read([*KEY, asset], trial).row(0, named=True)


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


def bytes_of(made: Project) -> dict[str, str]:
    """The hash of every file that a replay must leave alone."""
    folders = (made.data / "outputs", made.data / "tables", made.data / "mlflow", made.data / "cache/embeddings")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Replay


@pytest.mark.parametrize("trial", TRIALS)
def test_replay__a_probe_and_a_finetune_come_out_again_bit_for_bit(made: Project, trial: str) -> None:
    before, threads = bytes_of(made), torch.get_num_threads()
    with computing_threads(threads + 1):  # other last bits, were they not those of the trial
        found = said("replay", f"photos/first/{trial}")
    assert f"equal: checkpoint {row(made, 'checkpoint', trial)['checkpoint_id']} came out again" in found
    assert "environment  every fact of env.json holds here" in found
    assert bytes_of(made) == before


@pytest.mark.parametrize("trial", TRIALS)
def test_replay__predictions_and_metrics_come_out_again(made: Project, trial: str) -> None:
    before = bytes_of(made)
    found = said("replay", row(made, "checkpoint", trial)["checkpoint_id"], "--evaluate-only")
    assert "equal: predictions and metrics of" in found
    assert bytes_of(made) == before


def test_replay__evaluates_by_the_costs_that_it_was_evaluated_with(made: Project, copied: Path) -> None:
    """Costs that the YAML gives since then were taken for those of the evaluation: "different"."""
    costs = {"red": {"green": 4.0}}
    kept = json.loads((copied / "metrics.json").read_bytes())
    assert kept["rules"] == {"costs": None}
    made.write("first", EXPERIMENT | {"attributes": EXPERIMENT["attributes"] | {"costs": costs}})
    try:
        found = said("replay", str(copied), "--evaluate-only")
    finally:
        made.write("first", EXPERIMENT)
    assert "equal: predictions and metrics of" in found
    assert 'costs were null and are {"red": {"green": 4.0}} in the YAML now' in found


def test_replay__vectors_are_embedded_anew_when_asked(made: Project, tmp_path: Path) -> None:
    found = said("replay", "photos/first/probe__s0", "--embed-anew", "--into", str(tmp_path / "kept"))
    assert "equal: checkpoint" in found
    assert "24 of 24 images to embed with torch" in found
    (kept,) = (tmp_path / "kept").rglob("ckpt.safetensors")
    assert hashlib.sha256(kept.read_bytes()).hexdigest()[:16] == row(made, "checkpoint", "probe__s0")["checkpoint_id"]


@pytest.fixture
def copied(made: Project, tmp_path: Path) -> Path:
    """The folder of the probe, elsewhere, where a test may change it."""
    url = Path(row(made, "checkpoint", "probe__s0")["folder_url"])
    place = tmp_path.joinpath("outputs", *url.parts[-3:])
    shutil.copytree(url, place)
    return place


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """A file changed by someone who changed the manifest too."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))


def test_replay__other_options_are_named_with_the_first_difference(copied: Path) -> None:
    """The config says other options than the weights were fitted with."""
    config = json.loads((copied / "config.json").read_bytes())
    config["probe"] |= {"log10_c_max": -1.5, "log10_c_min": -2.5}
    rewrite(copied, "config.json", json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    found = said("replay", str(copied), code=1)
    assert "row 1 of the history: log10_c was" in found
    assert "tensor head.bias differs in 3 of 3 values" in found


def test_replay__an_edited_fact_of_the_environment_is_listed(copied: Path) -> None:
    env = json.loads((copied / "env.json").read_bytes())
    rewrite(copied, "env.json", json.dumps(env | {"torch_version": "1.0.0"}).encode())
    found = said("replay", str(copied), "--evaluate-only")
    assert "environment  torch_version was '1.0.0', is" in found


def test_replay__edited_predictions_and_metrics_are_found(copied: Path) -> None:
    frame = pl.read_parquet(copied / "predictions.parquet")
    doctored = frame.with_columns(logits=pl.col("logits").list.eval(pl.element() + 1.0))
    buffer = io.BytesIO()
    doctored.write_parquet(buffer)
    kept = (copied / "predictions.parquet").read_bytes()
    rewrite(copied, "predictions.parquet", buffer.getvalue())
    assert "logits differ by up to 1; those of 12 of 12 images do" in said(
        "replay", str(copied), "--evaluate-only", code=1
    )
    rewrite(copied, "predictions.parquet", kept)
    metrics = json.loads((copied / "metrics.json").read_bytes())
    metrics["test"]["top1"] = 0.987
    rewrite(copied, "metrics.json", json.dumps(metrics).encode())
    assert "different: test.top1 was 0.987, is" in said("replay", str(copied), "--evaluate-only", code=1)


def test_replay__what_is_gone_is_named_and_ends_with_2(made: Project, copied: Path) -> None:
    version = json.loads((copied / "fit.json").read_bytes())["records_version"]
    gone = [
        (
            made.data / f"tables/photos/records/versions/{version}.parquet",
            f"data version {version} of photos is not kept",
        ),
        (next((made.folder.parent / "images/red").iterdir()), "is missing; restore it"),
        (copied / "ckpt.safetensors", "ckpt.safetensors is missing; restore the folder first"),
    ]
    for path, reason in gone:
        path.rename(path.with_suffix(".away"))
        try:
            found = said("replay", str(copied), code=2)
        finally:
            path.with_suffix(".away").rename(path)
        assert "cannot be replayed: " in found
        assert reason in found


def test_replay__changed_images_and_unknown_weights_end_with_2(made: Project, copied: Path) -> None:
    picture = next((made.folder.parent / "images/blue").iterdir())
    data = picture.read_bytes()
    picture.write_bytes(data + b"\0")
    try:
        assert "restore that file" in said("replay", "photos/first/probe__s0", code=2)
    finally:
        picture.write_bytes(data)
    config = json.loads((copied / "config.json").read_bytes()) | {"pretrained_sha256": "0" * 64}
    rewrite(copied, "config.json", json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    assert "the weights it started from are not here: tf_efficientnet_lite0" in said("replay", str(copied), code=2)


def test_replay__a_run_goes_by_every_name_it_has(made: Project) -> None:
    checkpoint = row(made, "checkpoint", "probe__s0")
    names = [
        [checkpoint["checkpoint_id"]],
        [checkpoint["folder_url"]],
        [row(made, "metrics", "probe__s0")["mlflow_run_id"]],
        [checkpoint["run_id"], "--trial", "probe__s0"],
        ["photos/first/probe__s0"],
    ]
    for name in names:
        found = json.loads(said("stamp", "show", *name, "--json"))
        assert (found["checkpoint_id"], found["trial"]) == (checkpoint["checkpoint_id"], "photos/first/probe__s0"), name
    assert "the run has 2 trials; name one with --trial" in said("replay", checkpoint["run_id"], code=2)
    for unknown in ("0" * 16, "0" * 32, "photos/first/probe__s9", "somewhere"):
        assert "a run is named by its folder" in said("replay", unknown, code=2)


# Stamps


def test_stamp__shows_facts_hashes_and_the_excerpt(made: Project) -> None:
    checkpoint = row(made, "checkpoint", "finetune__s0")
    found = said("stamp", "show", "photos/first/finetune__s0")
    env = json.loads(Path(checkpoint["folder_url"], "env.json").read_bytes())
    for fact in (checkpoint["config_hash"], env["env_hash"], env["torch_version"], "metrics.json", "MANIFEST.json"):
        assert fact in found
    cited = found[found.index("**`photos/first/finetune__s0`**") :]
    assert f"checkpoint `{checkpoint['checkpoint_id']}`, test top-1 " in cited
    assert f"again: `kestrel replay {checkpoint['checkpoint_id']}`" in cited
    weights = hashlib.sha256(Path(checkpoint["folder_url"], "ckpt.safetensors").read_bytes()).hexdigest()
    assert weights in cited


def test_stamp__an_edited_file_is_said_and_ends_with_1(copied: Path) -> None:
    (copied / "metrics.json").write_text((copied / "metrics.json").read_text() + " ")
    assert "**damaged**" in said("stamp", "show", str(copied), code=1)


def test_stamp__an_edited_env_is_said_though_the_manifest_fits(copied: Path) -> None:
    env = json.loads((copied / "env.json").read_bytes())
    rewrite(copied, "env.json", json.dumps(env | {"torch_version": "1.0.0"}).encode())
    assert "the file was edited" in said("stamp", "show", str(copied), code=1)


# The table of linear probes


def test_baseline_table__one_row_a_probe_as_parquet_csv_and_json(made: Project) -> None:
    found, checkpoint = row(made, "baseline_table"), row(made, "checkpoint", "probe__s0")
    metrics, tuned = row(made, "metrics", "probe__s0"), row(made, "metrics", "finetune__s0")
    assert (found["backbone"], found["config_name"], found["normalization_id"]) == (
        "tf_efficientnet_lite0",
        "probe",
        "half",
    )
    assert (found["resolution_px"], found["seed"], found["checkpoint_id"]) == (32, 0, checkpoint["checkpoint_id"])
    assert (found["head_inputs"], found["head_outputs"], found["head_parameters"]) == (1280, 3, 1280 * 3 + 3)
    assert (found["top1"], found["macro_f1"]) == (metrics["test_top1"], metrics["test_macro_f1"])
    assert found["finetune_mlflow_run_id"] == tuned["mlflow_run_id"]
    assert found["finetune_run_url"].endswith(tuned["mlflow_run_id"])
    assert found["checkpoint_sha256"][:16] == found["checkpoint_id"]
    (as_json,) = json.loads(said("results", "photos/first", "--baseline", "json"))
    assert as_json == found
    (as_csv,) = csv.DictReader(io.StringIO(said("results", "photos/first", "--baseline", "csv")))
    recall = next(entry["recall"] for entry in found["per_class"] if entry["label"] == "green")
    assert float(as_csv["recall: green"]) == recall
    assert float(as_csv["top1"]) == found["top1"]


def test_baseline_table__shows_its_rows_in_the_ui(made: Project) -> None:
    shown = metadata(made.materialize('key:"photos/first/baseline_table"'), "photos/first/baseline_table")
    assert shown["dagster/row_count"] == 1
    assert Path(shown["csv"]).is_file()


# The page of results


def test_results_page__has_every_row_and_the_stamp_of_every_trial(made: Project, tmp_path: Path) -> None:
    out = tmp_path / "results.md"
    elsewhere = f"{made.folder}:photos/first"
    assert "2 experiments, 4 trials" in said("results", "--write", str(out), "photos/first", elsewhere)
    page = out.read_text()
    assert f"Written by `kestrel results --write {out} photos/first {elsewhere}`" in page
    board = Tables(made.data / "tables").read([*KEY, "leaderboard"])
    for line in board.to_dicts():
        assert page.count(f"| {line['rank']} | {line['variant']} |") == 2
        assert f"{line['test_mean']:.4f}" in page
    for trial in TRIALS:
        assert page.count(f"again: `kestrel replay {row(made, 'checkpoint', trial)['checkpoint_id']}`") == 2


def test_results_page__says_where_groups_are_drawn() -> None:
    """It said images where whole groups had been drawn."""
    found = read_results("photos/first")
    assert "a 95 % bootstrap over images of the mean" in results_page([found], "a command")
    grouped = [replace(stamp, scores=stamp.scores | {"units": 2}) for stamp in found.stamps]
    page = results_page([found._replace(stamps=tuple(grouped))], "a command")
    assert "a 95 % bootstrap over images, in photos/first over groups of images, of the mean" in page


def test_results_page__of_damaged_or_changed_trials_is_not_written(made: Project, tmp_path: Path) -> None:
    url = Path(row(made, "checkpoint", "probe__s0")["folder_url"])
    kept = (url / "metrics.json").read_bytes()
    (url / "metrics.json").write_bytes(kept.replace(b"top1", b"top2", 1))
    try:
        assert "results of damaged trials are not published" in said(
            "results", "--write", str(tmp_path / "results.md"), "photos/first", code=1
        )
    finally:
        (url / "metrics.json").write_bytes(kept)
    tables = Tables(made.data / "tables")
    board = tables.read([*KEY, "leaderboard"])
    tables.write([*KEY, "leaderboard"], board.with_columns(test_top1_mean=pl.lit(0.999)))
    try:
        assert "the leaderboard is not of the trials that lie there" in said(
            "results", "--write", str(tmp_path / "results.md"), "photos/first", code=1
        )
    finally:
        tables.write([*KEY, "leaderboard"], board)
    assert not (tmp_path / "results.md").exists()


# Questions


def test_sql__asks_the_real_tables_and_runs(made: Project) -> None:
    for name in QUESTIONS:
        json.loads(said("sql", "--question", name, "--format", "json"))
    (best,) = json.loads(said("sql", "--question", "best", "--format", "json"))
    board = row(made, "leaderboard")
    assert (best["dataset"], best["experiment"], best["variant"]) == ("photos", "first", board["variant"])
    assert best["val_mean"] == pytest.approx(board["val_mean"])
    joined = "select m.trial, test_top1, r.metrics['test_top1'] as logged from metrics m join runs r on r.run_id = mlflow_run_id"
    found = json.loads(said("sql", joined, "--format", "json"))
    assert {each["trial"] for each in found} == set(TRIALS)
    assert all(each["test_top1"] == each["logged"] for each in found)


def test_sql__leaves_the_database_of_mlflow_unlocked(made: Project) -> None:
    said("sql", "select count(*) from runs")
    with sqlite3.connect(made.data / "mlflow/mlflow.db", timeout=0) as connection:
        connection.execute("UPDATE runs SET name = name")
