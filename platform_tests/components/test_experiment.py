"""Experiments as a user materializes them: the whole chain, memoised, gated, and every check seen to fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from platform_assets.stores.gate_records import GateRecords
from platform_assets.stores.outputs import Outputs
from platform_assets.stores.runs import Runs
from platform_assets.stores.stamps import check_stamp
from platform_assets.stores.tables import Tables
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.calibration import Calibration
from platform_assets.vision.networks.checkpoints import load_classifier
from platform_assets.vision.networks.exporting import export_onnx
from platform_assets.vision.networks.onnx_classifier import OnnxClassifier
from platform_assets.vision.training.tensorboard_log import EVENT_FILE
from platform_tests.components.projects import (
    CNN,
    RECORDS,
    TRIAL,
    Project,
    dataset_yaml,
    experiment_yaml,
    failed_checks,
    failure,
    metadata,
    write_images,
)

TRIALS = ("cnn__s0", "probe__s1")
FILES = {
    *("ckpt.safetensors", "config.json", "env.json", "labelmap.json", "history.parquet", "metrics.json"),
    "calibration.json",
    *("predictions.parquet", "parts.parquet", "fit.json", "tb/events.out.tfevents.0.kestrel"),
    *("fiftyone/metadata.json", "fiftyone/samples.json", "predictions.jsonl", f"tb/evaluation/{EVENT_FILE}"),
    *("views/worst_mistakes.jpg", "views/made_from.json"),
}


def _tables(project: Project) -> Tables:
    return Tables(project.data / "tables")


def _outputs(project: Project) -> Outputs:
    return Outputs(str(project.data / "outputs"), scratch=project.data / "cache/outputs")


def _row(project: Project, asset: str, trial: str | None = None) -> dict[str, Any]:
    return _tables(project).read(["photos", "first", asset], trial).row(0, named=True)


def test_experiment__every_trial_has_its_folder_as_designed(finished: Project) -> None:
    for trial in ("cnn__s0", "cnn__s1", "probe__s0", "probe__s1"):
        row = _row(finished, "checkpoint", trial)
        folder = _outputs(finished).at(row["folder_url"])
        assert folder.verify() == []
        assert folder.manifest().files.keys() >= FILES
        assert Path(folder.url).parts[-3:] == (row["run_id"], row["config_hash"], row["checkpoint_id"])
        check_stamp(json.loads(folder.path("env.json").read_bytes()))


def test_experiment__what_others_report_stands_beside_what_was_measured(finished: Project) -> None:
    board = _tables(finished).read(["photos", "first", "leaderboard"]).sort("variant")
    shown = board.select("variant", "backbone", "published_top1", "published_source").rows()
    assert shown == [
        ("cnn", "baseline_cnn", None, None),
        ("probe", "tf_efficientnet_lite0", 0.9, "a paper"),
    ]


def test_experiment__the_export_is_as_sure_as_its_calibration_says(finished: Project) -> None:
    folder = _outputs(finished).at(_row(finished, "champion")["folder_url"])
    said = json.loads(folder.path("calibration.json").read_bytes())
    served = OnnxClassifier(folder.path("exports/model.onnx"))
    assert served.calibration == Calibration.model_validate(said["calibration"])
    trial = _row(finished, "champion")["candidate"]
    test = _tables(finished).read(["photos", "first", "predictions"], trial).filter(part="test")
    photos = [(finished.folder.parent / "images" / path).read_bytes() for path in test["path"]]
    found = served.predict(photos)
    covered = [truth in (each.labels or ()) for truth, each in zip(test["truth"], found, strict=True)]
    assert np.mean(covered) == pytest.approx(said["on_test"]["covered"])
    assert np.mean([each.is_sure for each in found]) == pytest.approx(said["on_test"]["answered"])
    assert _row(finished, "metrics", trial)["test_covered"] == said["on_test"]["covered"]


def test_experiment__one_row_for_every_evaluated_image(finished: Project) -> None:
    predictions = _tables(finished).read(["photos", "first", "predictions"], "probe__s0")
    records = _tables(finished).read(["photos", "records"]).filter(pl.col("split") != "train")
    assert sorted(predictions["image_id"]) == sorted(records["image_id"])


def test_experiment__mlflow_holds_a_run_a_trial_with_links_both_ways(finished: Project) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{finished.data / 'mlflow/mlflow.db'}")
    experiment = client.get_experiment_by_name("photos/first")
    runs = {run.data.tags["partition"]: run for run in client.search_runs([experiment.experiment_id])}
    row = _row(finished, "metrics", "cnn__s1")
    run = runs["cnn__s1"]
    assert len(runs) == 4
    assert run.info.run_id == row["mlflow_run_id"]
    assert run.data.metrics["test_top1"] == pytest.approx(row["test_top1"])
    assert len(client.get_metric_history(run.info.run_id, "epoch_val_loss")) == 2
    tags = ("dagster_run_id", "asset", "config_hash", "checkpoint_id", "data_version")
    assert all(run.data.tags[name] for name in tags)


def test_experiment__champion_is_registered_exported_and_described(finished: Project) -> None:
    row = _row(finished, "champion")
    runs = Runs(f"sqlite:///{finished.data / 'mlflow/mlflow.db'}", artifact_root=None)
    champion = runs.champion("photos_first")
    assert champion is not None
    assert champion.tags["checkpoint_id"] == row["checkpoint_id"]
    folder = _outputs(finished).at(row["folder_url"])
    picture = next((finished.folder.parent / "images/green").iterdir()).read_bytes()
    assert OnnxClassifier(folder.path("exports/model.onnx")).predict([picture])[0].label == "green"
    card = (finished.data / "cards/photos/first/model_card.md").read_text()
    assert row["checkpoint_id"] in card


def test_experiment__again_trains_nothing_and_says_so(finished: Project, capfd: pytest.CaptureFixture[str]) -> None:
    before = {t: _row(finished, "checkpoint", t) for t in ("cnn__s0", "probe__s1")}
    result = finished.materialize("group:photos_first", partitions=TRIALS)
    assert all(metadata(result, "photos/first/checkpoint", t)["reused"] for t in before)
    assert metadata(result, "photos/first/embeddings")["embedded_now"] == 0
    assert {t: _row(finished, "checkpoint", t) for t in before} == before
    assert "nothing changed, checkpoint" in capfd.readouterr().err
    assert _row(finished, "champion")["verdict"] == "kept"
    card = (finished.data / "cards/photos/first/model_card.md").read_text()
    assert "\n\nGate: promoted: " in card, "what let it through, not that it met itself"


def test_experiment__versions_do_not_depend_on_how_many_trials_run_together(finished: Project) -> None:
    def versions(partitions: tuple[str, str]) -> dict[str, str]:
        selection = 'key:"photos/first/checkpoint" or key:"photos/first/metrics"'
        events = finished.materialize(selection, partitions=partitions).get_asset_materialization_events()
        found = [e.materialization for e in events]
        return {"/".join(m.asset_key.path): m.tags["dagster/data_version"] for m in found if m.partition == "cnn__s1"}

    assert versions(("cnn__s1", "cnn__s1")) == versions(TRIALS)


def test_experiment__two_clean_runs_give_the_same_checkpoints(
    finished: Project, photos: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second with the cache of decoded pixels, which must not show in any weight."""
    monkeypatch.setenv("KESTREL_ROOT", str(photos.folder))
    monkeypatch.setenv("KESTREL_PIXEL_CACHE_GB", "0.1")
    photos.materialize(RECORDS)
    photos.materialize('key:"photos/first/embeddings"')
    photos.materialize('key:"photos/first/checkpoint"', partitions=TRIALS)
    for trial in ("cnn__s0", "cnn__s1", "probe__s0"):
        here, there = (_row(project, "checkpoint", trial)["checkpoint_id"] for project in (photos, finished))
        assert here == there, trial
    assert list((photos.data / "cache/pixels").rglob("*.pixels"))


def test_experiment__one_flipped_byte_is_found_and_the_trial_made_again(photos: Project) -> None:
    photos.write("first", experiment_yaml(variants={"cnn": CNN}, seeds=[0]))
    photos.materialize(RECORDS)
    photos.materialize(f'{TRIAL} or key:"photos/first/leaderboard"', partitions=("cnn__s0", "cnn__s0"))
    row = _row(photos, "checkpoint", "cnn__s0")
    weights = Path(row["folder_url"], "ckpt.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    result = photos.run_check("every_checkpoint_matches_its_manifest")
    assert "ckpt.safetensors has changed" in (failed_checks(result)["every_checkpoint_matches_its_manifest"] or "")
    alone = photos.run_check("checkpoint_matches_its_manifest")
    assert "ckpt.safetensors has changed" in (failed_checks(alone)["checkpoint_matches_its_manifest"] or "")
    again = photos.materialize('key:"photos/first/checkpoint"', partitions=("cnn__s0", "cnn__s0"))
    assert not metadata(again, "photos/first/checkpoint", "cnn__s0")["reused"]
    assert _row(photos, "checkpoint", "cnn__s0")["checkpoint_id"] == row["checkpoint_id"]


def test_experiment__a_trial_that_fails_has_failed_in_mlflow(photos: Project, tmp_path: Path) -> None:
    import mlflow

    photos.write("first", experiment_yaml(variants={"cnn": CNN}, seeds=[0]))
    photos.materialize(RECORDS)
    picture = next((tmp_path / "images/red").iterdir())
    data = picture.read_bytes()
    picture.unlink()
    result = photos.materialize("group:photos_first", partitions=("cnn__s0", "cnn__s0"), raises=False)
    assert str(picture) in failure(result)
    client = mlflow.MlflowClient(f"sqlite:///{photos.data / 'mlflow/mlflow.db'}")

    def runs() -> list[tuple[str, str]]:
        experiment = client.get_experiment_by_name("photos/first")
        return [(r.data.tags["partition"], r.info.status) for r in client.search_runs([experiment.experiment_id])]

    assert runs() == [("cnn__s0", "FAILED")]
    picture.write_bytes(data)
    photos.materialize(TRIAL, partitions=("cnn__s0", "cnn__s0"))
    assert runs() == [("cnn__s0", "FINISHED")]


def test_experiment__an_export_of_other_weights_is_found(finished: Project) -> None:
    folder = _outputs(finished).at(_row(finished, "champion")["folder_url"])
    others = {
        _row(finished, "checkpoint", f"{name}__s{seed}")["folder_url"] for name in ("cnn", "probe") for seed in (0, 1)
    }
    other = _outputs(finished).at(sorted(others - {folder.url})[0])
    assert not failed_checks(finished.run_check("export_matches_its_checkpoint"))
    model = folder.path("exports/model.onnx")
    exported = model.read_bytes()
    label_map = LabelMap.from_json(folder.path("labelmap.json").read_text())
    stranger = load_classifier(
        other.local_folder("ckpt.safetensors", "config.json", "labelmap.json"), expect_label_map=label_map
    )
    try:
        export_onnx(stranger, model, label_map=label_map, checkpoint_id="0" * 16)
        found = failed_checks(finished.run_check("export_matches_its_checkpoint"))
        assert "differ" in (found["export_matches_its_checkpoint"] or "")
    finally:
        model.write_bytes(exported)


def test_experiment__a_candidate_below_the_minimum_is_refused(photos: Project, tmp_path: Path) -> None:
    photos.write("photos", dataset_yaml(write_images(tmp_path / "noise", told_apart=False)))
    photos.write("first", experiment_yaml(variants={"cnn": CNN}, seeds=[0], gate={"minimum": 0.9}))
    photos.materialize(RECORDS)
    result = photos.materialize("group:photos_first", partitions=("cnn__s0", "cnn__s0"), raises=False)
    assert "is below the minimum 0.9000" in failure(result)
    (record,) = GateRecords(photos.data / "gate_records/photos/first", _tables(photos), ["photos", "first"]).read()
    assert (record.verdict, record.incumbent) == ("refused", None)
    (observed,) = photos.instance.fetch_observations(dg.AssetKey(["photos", "first", "champion"]), limit=1).records
    shown = observed.asset_observation.metadata
    assert shown["gate_record"].value == record.id
    assert {row.data["passed"] for row in shown["gate"].records} == {"yes", "no"}
    assert "metrics_beat_the_majority_class" in failed_checks(photos.run_check("metrics_beat_the_majority_class"))
    assert not (photos.data / "cards/photos/first").exists()


def test_experiment__a_worse_challenger_leaves_the_incumbent_in_service(photos: Project) -> None:
    hardly = {**CNN, "train": {**CNN["train"], "learning_rate": 1e-9}}
    photos.materialize(RECORDS)
    champions = []
    for variant in (CNN, hardly):
        photos.write("first", experiment_yaml(variants={"cnn": variant}, seeds=[0]))
        photos.materialize(TRIAL, partitions=("cnn__s0", "cnn__s0"))
        photos.materialize('key:"photos/first/leaderboard" or key:"photos/first/champion"')
        champions.append(_row(photos, "champion"))
    first, second = champions
    assert (first["verdict"], second["verdict"]) == ("promoted", "kept")
    assert "a loss beyond 0.0000" in second["reason"]
    assert first["checkpoint_id"] == second["checkpoint_id"] != second["candidate_checkpoint_id"]


def test_experiment__only_what_a_change_touches_is_made_again(photos: Project, tmp_path: Path) -> None:
    photos.materialize(RECORDS)
    photos.materialize('key:"photos/first/embeddings"')
    extra = next((write_images(tmp_path / "more", per_class=1, seed=9) / "red").iterdir())
    extra.rename(tmp_path / "images/red/one_more.png")
    photos.materialize(RECORDS)
    result = photos.materialize('key:"photos/first/embeddings"')
    assert metadata(result, "photos/first/embeddings")["embedded_now"] == 1


def test_experiment__tiny_subset_and_resampled_splits(photos: Project) -> None:
    cnn = {"backbone": "baseline_cnn", "mode": "scratch", "train": {"epochs": 1, "max_steps": 2, "warmup_epochs": 0}}
    photos.write("first", experiment_yaml(variants={"cnn": cnn}, resample=True))
    photos.write("smoke", experiment_yaml(name="smoke", variants={"cnn": cnn}, subset="tiny", retrain=None))
    photos.materialize(f'{RECORDS} or key:"photos/tiny_subset"')
    photos.materialize(TRIAL, partitions=("cnn__s0", "cnn__s1"))
    photos.materialize("group:photos_smoke", partitions=("cnn__s0", "cnn__s1"))
    tests = [
        set(_tables(photos).read(["photos", "first", "predictions"], t)["image_id"]) for t in ("cnn__s0", "cnn__s1")
    ]
    assert tests[0] != tests[1]
    assert _tables(photos).read(["photos", "smoke", "predictions"], "cnn__s0").height == 12


def test_experiment__resample_of_official_parts_is_refused(photos: Project, tmp_path: Path) -> None:
    photos.write("photos", dataset_yaml(tmp_path / "images", split={"kind": "official"}))
    photos.write("first", experiment_yaml(resample=True))
    with pytest.raises(Exception, match="Error while building definitions") as caught:
        photos.load()
    assert "official parts" in str(caught.value.__cause__)
    assert "first/defs.yaml:" in str(caught.value.__cause__)
