"""Small real projects on disk: generated photographs, YAML, and the definitions that they load to."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import yaml
from PIL import Image

from platform_assets.scaffold import create_project

RECORDS = " or ".join(
    f'key:"photos/{name}"' for name in ("source", "records", "rejected", "label_map", "near_duplicates")
)
"""What a trial needs of its dataset: a quarter of the time of all its assets."""
TRIAL = " or ".join(f'key:"photos/first/{name}"' for name in ("checkpoint", "predictions", "metrics"))
COLOURS = {"blue": (40, 60, 200), "green": (40, 170, 60), "red": (200, 50, 40)}


def write_images(folder: Path, *, per_class: int = 20, side: int = 40, seed: int = 0, told_apart: bool = True) -> Path:
    """One folder a class of noisy pictures, told apart by their colour, or by nothing."""
    random = np.random.default_rng(seed)
    for name, own in COLOURS.items():
        colour = own if told_apart else (128, 128, 128)
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = np.clip(random.normal(colour, 45, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
    return folder


def dataset_yaml(images: Path | str, **changes: Any) -> dict[str, Any]:
    attributes = {
        "name": "photos",
        "description": "Noisy colours.",
        "licence": "CC0-1.0",
        "source": {"kind": "folder", "path": str(images)},
        "split": {"kind": "stratified", "train": 0.5, "val": 0.25, "test": 0.25},
        "tiny_batch_size": 3,
        **changes,
    }
    return {"type": "platform_assets.components.VisionDataset", "attributes": attributes}


CNN = {"backbone": "baseline_cnn", "mode": "scratch", "train": {"epochs": 2, "warmup_epochs": 0}}
PROBE = {"backbone": "tf_efficientnet_lite0", "mode": "linear_probe", "image_size_px": 64, "probe": {"points": 3}}


def experiment_yaml(**changes: Any) -> dict[str, Any]:
    attributes = {
        "name": "first",
        "dataset": "photos",
        "description": "A network and a probe.",
        "seeds": [0, 1],
        "baseline": "cnn",
        "image_size_px": 32,
        "variants": {"cnn": CNN, "probe": {**PROBE, "published": {"top1": 0.9, "source": "a paper"}}},
        "retrain": "0 3 * * 1",
        **changes,
    }
    return {"type": "platform_assets.components.Experiment", "attributes": attributes}


@dataclass
class Project:
    """A project's folder and an instance of its own."""

    folder: Path
    package: str
    instance: dg.DagsterInstance

    def write(self, name: str, document: dict[str, Any]) -> Path:
        path = self.folder / self.package / "defs" / name / "defs.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def load(self) -> dg.Definitions:
        module = importlib.reload(importlib.import_module(f"{self.package}.definitions"))
        return module.defs()

    def materialize(
        self,
        selection: str,
        *,
        partitions: tuple[str, str] | None = None,
        raises: bool = True,
        run_config: dict[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """What `dagster asset materialize --select` does, in this process: the range of partitions in one run."""
        repository = self.load().get_repository_def()
        keys = dg.AssetSelection.from_string(selection).resolve(repository.asset_graph)
        job = repository.get_implicit_job_def_for_assets(keys)
        assert job is not None
        names = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
        tags = dict(zip(names, partitions, strict=True)) if partitions else {}
        return job.execute_in_process(
            instance=self.instance,
            asset_selection=list(keys),
            tags=tags,
            raise_on_error=raises,
            run_config=run_config,
        )

    def run_check(self, name: str) -> dg.ExecuteInProcessResult:
        """One asset check alone, as the UI runs it."""
        repository = self.load().get_repository_def()
        keys = {key for key in repository.asset_graph.asset_check_keys if key.name == name}
        job = repository.get_implicit_global_asset_job_def()
        alone = job.get_subset(asset_selection=set(), asset_check_selection=keys)
        return alone.execute_in_process(instance=self.instance, raise_on_error=False)


@contextmanager
def project(folder: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project as `kestrel init` writes it, with the dataset and experiment above."""
    package = f"project_{abs(hash(str(folder))):x}"
    create_project(folder, images=images, name=package)
    monkeypatch.setenv("KESTREL_ROOT", str(folder))
    monkeypatch.setenv("KESTREL_ENGINE", "torch")
    monkeypatch.syspath_prepend(str(folder))
    with dg.DagsterInstance.ephemeral() as instance:
        made = Project(folder, package, instance)
        for name in ("photos", "photos_first"):
            (folder / package / "defs" / name / "defs.yaml").unlink()
        made.write("photos", dataset_yaml(images))
        made.write("first", experiment_yaml())
        yield made
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


@contextmanager
def lasting_project(folder: Path, images: Path, database: Path) -> Iterator[Project]:
    """One for the tests of a module, in `project` of the folder, with an MLflow database from the start."""
    give_database(folder / "project", database)
    with pytest.MonkeyPatch.context() as patch, project(folder / "project", images, patch) as made:
        yield made


def give_database(project: Path, database: Path) -> None:
    """A copy of an empty MLflow database: making one takes seconds."""
    (project / "data/mlflow").mkdir(parents=True)
    shutil.copy(database, project / "data/mlflow/mlflow.db")


def metadata(result: dg.ExecuteInProcessResult, asset: str, partition: str | None = None) -> dict[str, Any]:
    """The metadata of one materialization of a run, as plain values."""
    events = [event.materialization for event in result.get_asset_materialization_events()]
    found = next(e for e in events if "/".join(e.asset_key.path) == asset and e.partition == partition)
    return {name: getattr(value, "value", value) for name, value in found.metadata.items()}


def failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str | None]:
    """Name and description of every check that failed."""
    return {e.check_name: e.description for e in result.get_asset_check_evaluations() if not e.passed}


def failure(result: dg.ExecuteInProcessResult) -> str:
    """The error text of the first step that failed."""
    error = next(event.step_failure_data.error for event in result.all_events if event.is_step_failure)
    return error.to_string() if error else ""
