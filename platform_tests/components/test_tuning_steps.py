"""Searches as assets: real trainings and probes judged on val, kept, shown, and recorded under one MLflow run."""

import hashlib
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from platform_assets.components import tuning_steps
from platform_assets.components.desk import DESK_RESOURCES, open_desk
from platform_assets.components.embedding_steps import Embedded
from platform_assets.components.experiment import ExperimentSpec
from platform_assets.components.vision_dataset import VisionDatasetSpec
from platform_assets.resources import (
    ComputeResource,
    FilesResource,
    OutputsResource,
    RunsResource,
    TablesResource,
)
from platform_assets.stores.mlflow_database import load_mlflow
from platform_assets.stores.tables import Tables
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.recipes.tuning_options import Tune, best_parameters
from platform_assets.vision.recipes.variants import Variant
from platform_tests.components.projects import COLOURS, dataset_yaml, experiment_yaml, write_images

CNN = {"backbone": "baseline_cnn", "mode": "scratch", "train": {"epochs": 2, "warmup_epochs": 0, "batch_size": 16}}
PROBE = {"backbone": "tf_efficientnet_lite0", "mode": "linear_probe", "image_size_px": 64}
RATES = Tune.model_validate(
    {
        "variant": "cnn",
        "space": {
            "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "train.augmentation": {"choices": ["none", "flip"]},
        },
        "trials": 3,
        "pruner": "none",
    }
)
STRENGTH = Tune.model_validate(
    {"variant": "probe", "space": {"probe.log10_c_max": {"low": -4.0, "high": 2.0}}, "trials": 3}
)


@dataclass
class Workshop:
    """One project's stores with a dataset in them, and its searches run as assets."""

    folder: Path
    spec: ExperimentSpec
    dataset: VisionDatasetSpec
    instance: dg.DagsterInstance

    @property
    def tables(self) -> Tables:
        return Tables(self.folder / "tables")

    def search(
        self, name: str, options: Tune, *, compute: ComputeResource | None = None, raises: bool = True
    ) -> dg.ExecuteInProcessResult:
        @dg.multi_asset(
            name=name,
            specs=[dg.AssetSpec([*self.spec.key, f"tuning_{name}"])],
            required_resource_keys=DESK_RESOURCES,
        )
        def asset(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
            yield tuning_steps.tuning(open_desk(context, self.spec, self.dataset), name, options)

        resources = {
            "tables": TablesResource(root=str(self.folder / "tables")),
            "outputs": OutputsResource(url=str(self.folder / "outputs"), scratch=str(self.folder / "scratch")),
            "runs": RunsResource(
                tracking_uri=f"sqlite:///{self.folder}/mlflow.db", artifact_root=str(self.folder / "artifacts")
            ),
            "files": FilesResource(root=str(self.folder), data=str(self.folder)),
            "compute": compute or ComputeResource(device="cpu", engine="torch"),
        }
        return dg.materialize([asset], instance=self.instance, resources=resources, raise_on_error=raises)

    def mlflow_runs(self) -> dict[str, Any]:
        client = load_mlflow().MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("/".join(self.spec.key))
        return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Pictures this small are trained faster by one thread, and much faster beside other processes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def workshop(tmp_path: Path, mlflow_database: Path) -> Iterator[Workshop]:
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    images = write_images(tmp_path / "images", per_class=16)
    variants = {"cnn": CNN, "probe": PROBE}
    with dg.DagsterInstance.ephemeral() as instance:
        made = Workshop(
            folder=tmp_path,
            spec=ExperimentSpec(**experiment_yaml(variants=variants, metric="top1")["attributes"]),
            dataset=VisionDatasetSpec(**dataset_yaml(images)["attributes"]),
            instance=instance,
        )
        made.tables.write_version(["photos", "records"], "v1", _records(images))
        made.tables.write(["photos", "label_map"], pl.DataFrame({"name": sorted(COLOURS)}))
        yield made


def _records(images: Path) -> pl.DataFrame:
    rows = []
    for path in sorted(images.rglob("*.png")):
        number = int(path.stem)
        split = "train" if number < 8 else "val" if number < 12 else "test"
        image_id = hashlib.sha256(path.read_bytes()).hexdigest()
        row = {"image_id": image_id, "path": str(path.relative_to(images)), "label": path.parent.name, "split": split}
        rows.append(row)
    return pl.DataFrame(rows)


def _metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.get_asset_materialization_events()
    return {name: getattr(value, "value", value) for name, value in event.materialization.metadata.items()}


def test_tuning__trains_on_train_judges_on_val_and_needs_no_test_image(workshop: Workshop) -> None:
    for path in workshop.tables.read(["photos", "records"]).filter(split="test")["path"]:
        (workshop.folder / "images" / path).unlink()
    shown = _metadata(workshop.search("rates", RATES))
    trials = workshop.tables.read(["photos", "first", "tuning_rates"])
    assert trials["state"].to_list() == ["complete"] * 3
    assert trials["epochs"].to_list() == [2, 2, 2]
    assert shown["best_val_top1"] == trials["value"].max()
    assert {"history", "trials", "best", "mlflow_run", "dagster/row_count"} <= shown.keys()
    best = best_parameters(workshop.tables.read(["photos", "first", "tuning_rates", "best"]))
    row = trials.row(shown["best_trial"], named=True)
    assert best == {path: row[path] for path in RATES.space}
    work = list((workshop.folder / "outputs").rglob("_trials/*"))
    assert work == [], "what trainings resume from is gone once they are told"


def test_tuning__is_kept_and_recorded_as_children_of_one_run(workshop: Workshop) -> None:
    workshop.search("rates", RATES.model_copy(update={"trials": 1}))
    first = workshop.tables.read(["photos", "first", "tuning_rates"])
    workshop.search("rates", RATES.model_copy(update={"trials": 1}))
    assert workshop.tables.read(["photos", "first", "tuning_rates"]).equals(first)
    workshop.search("rates", RATES.model_copy(update={"trials": 2}))
    trials = workshop.tables.read(["photos", "first", "tuning_rates"])
    assert trials.head(1).equals(first)
    runs = workshop.mlflow_runs()
    parent = runs.pop("tuning_rates")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_val_top1"] == trials["value"].max()
    assert runs.keys() == {f"tuning_rates__{number}" for number in range(2)}
    for number, value in trials.select("number", "value").iter_rows():
        child = runs[f"tuning_rates__{number}"]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (child.info.status, child.data.params["state"]) == ("FINISHED", "complete")
        assert child.data.metrics["val_top1"] == value
        assert child.data.params["train.augmentation"] in ("none", "flip")


def test_tuning__probes_stand_on_cached_vectors(workshop: Workshop) -> None:
    _embed(workshop)
    workshop.search("strength", STRENGTH)
    trials = workshop.tables.read(["photos", "first", "tuning_strength"])
    assert trials["state"].to_list() == ["complete"] * 3
    assert trials["value"].max() > 0.5
    assert trials["epochs"].null_count() == 3


def _embed(workshop: Workshop) -> None:
    """Generated vectors, told apart by class, as the embeddings asset would have written them."""
    records, backbone = workshop.tables.read(["photos", "records"]), get_backbone("tf_efficientnet_lite0")
    row = Embedded(
        backbone="tf_efficientnet_lite0",
        features="pooled",
        image_size_px=64,
        preprocessing_id=backbone.preprocessing(image_size_px=64).preprocessing_id,
        weights_sha256="0" * 64,
        engine="torch",
        feature_dim=backbone.dim("pooled"),
        parity_max_abs_diff=0.0,
        parity_tolerance=0.0,
        engine_images_s=0.0,
        images=records.height,
        embedded_now=0,
        seconds=0.0,
    )
    random = np.random.default_rng(0)
    place = {name: random.normal(size=row.feature_dim) for name in COLOURS}
    vectors = [(place[label] + random.normal(scale=3, size=row.feature_dim)).tolist() for label in records["label"]]
    frame = pl.DataFrame({"image_id": records["image_id"], "vector": vectors}, schema=row.key.columns)
    FilesResource(root="", data=str(workshop.folder)).embedding_cache().add(row.key, frame)
    workshop.tables.write([*workshop.spec.key, "embeddings"], pl.DataFrame([row.model_dump()]))


class Interrupting(ComputeResource):
    """Ctrl-C at the moment when the second trial asks for its device."""

    def choose(self, log: Any) -> Any:
        asked = Path("asked")
        asked.touch()
        asked.write_text(asked.read_text() + "x")
        if len(asked.read_text()) == 2:
            signal.raise_signal(signal.SIGINT)
        return super().choose(log)


def test_tuning__a_stop_by_request_keeps_trials_and_is_not_retried(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    stopped = workshop.search("rates", RATES, compute=Interrupting(device="cpu"), raises=False)
    (failed,) = [event for event in stopped.all_events if event.is_step_failure]
    assert "Stopped by request. Finished trials are kept." in str(failed.step_failure_data.error_display_string)
    assert workshop.mlflow_runs()["tuning_rates"].info.status == "KILLED"
    assert not workshop.tables.exists(["photos", "first", "tuning_rates"])
    workshop.search("rates", RATES)
    trials = workshop.tables.read(["photos", "first", "tuning_rates"])
    assert trials["state"].to_list() == ["complete", "interrupted", "complete", "complete"]
    assert trials["train.learning_rate"][1] == trials["train.learning_rate"][2]
    runs = workshop.mlflow_runs()
    assert (runs["tuning_rates"].info.status, runs["tuning_rates__1"].info.status) == ("FINISHED", "KILLED")


def test_tuning__a_training_that_diverges_is_a_failed_trial(workshop: Workshop) -> None:
    space = {"train.learning_rate": {"choices": [1e-3, 1e30]}}
    options = Tune.model_validate({"variant": "cnn", "space": space, "trials": 3, "sampler": "random", "seed": 3})
    workshop.search("rates", options)
    trials = workshop.tables.read(["photos", "first", "tuning_rates"])
    diverged = trials.filter(pl.col("train.learning_rate") == 1e30)
    assert set(diverged["state"]) == {"failed"}
    assert diverged["reason"][0].startswith("NonFiniteLoss: training loss is")
    assert set(trials.filter(pl.col("train.learning_rate") == 1e-3)["state"]) <= {"complete", "pruned"}
    failed = [run for run in workshop.mlflow_runs().values() if run.info.status == "FAILED"]
    assert len(failed) == diverged.height


def test_tuning__options_that_the_backbone_refuses_are_a_failed_trial(workshop: Workshop) -> None:
    """The search ended, and every later one tried the same values first and ended again."""
    space = {"train.frozen_layers": {"choices": [0, 40]}, "train.learning_rate": {"low": 1e-4, "high": 1e-2}}
    train = {"epochs": 1, "warmup_epochs": 0, "max_steps": 1}
    workshop.spec.variants["tuned"] = Variant(
        backbone="tf_efficientnet_lite0", mode="finetune", image_size_px=64, train=TrainRecipe(**train)
    )
    options = Tune.model_validate({"variant": "tuned", "space": space, "trials": 3, "sampler": "random", "seed": 3})
    workshop.search("frozen", options)
    trials = workshop.tables.read(["photos", "first", "tuning_frozen"])
    assert trials.height == 3
    refused = trials.filter(pl.col("train.frozen_layers") == 40)
    assert set(refused["state"]) == {"failed"}
    assert refused["reason"][0].startswith(
        "TooManyFrozenLayers: frozen_layers 40: backbone 'tf_efficientnet_lite0' has"
    )
    assert set(trials.filter(pl.col("train.frozen_layers") == 0)["state"]) <= {"complete", "pruned"}
