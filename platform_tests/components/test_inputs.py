"""What trials stand on, as a step of an experiment reads it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.inputs import Inputs
from platform_assets.components.vision_dataset import VisionDatasetSpec
from platform_assets.stores.tables import Tables
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.networks.weight_files import WeightPlaces, WeightsMissing
from platform_tests.components.projects import dataset_yaml, experiment_yaml


def test_start__weights_that_were_not_found_are_not_looked_for_again(tmp_path: Path) -> None:
    # Every seed of a variant, and every version of the trials, asks: each was a download that timed out.
    spec = ExperimentSpec.model_validate(experiment_yaml()["attributes"])
    inputs = Inputs(
        spec=spec,
        dataset=VisionDatasetSpec.model_validate(dataset_yaml(tmp_path)["attributes"]),
        records=pl.DataFrame(),
        records_version="",
        label_map=LabelMap.from_labels(("a", "b")),
        root=tmp_path,
        tables=Tables(tmp_path / "tables"),
        places=WeightPlaces(root=tmp_path, data=tmp_path / "data"),
        say=lambda text: None,
    )
    probe = next(variant for variant in spec.variants.values() if variant.mode == "linear_probe")
    variant = probe.model_copy(update={"weights": "own.safetensors"})
    with pytest.raises(WeightsMissing, match=r"weights: .* is missing"):
        inputs.start(variant)
    (tmp_path / "own.safetensors").write_bytes(b"weights")
    with pytest.raises(WeightsMissing, match=r"weights: .* is missing"):
        inputs.start(variant)
    found = inputs.start(probe)
    assert found is not None
    assert found.origin == "package"


def test_folds__every_fold_is_a_trial_unless_seeds_are_named() -> None:
    """One of the five folds was trained, in silence."""
    attributes = {key: value for key, value in experiment_yaml(folds=3)["attributes"].items() if key != "seeds"}
    spec = ExperimentSpec.model_validate(attributes)
    assert spec.seeds == (0, 1, 2)
    assert len(spec.trials) == 3 * len(spec.variants)
    assert ExperimentSpec.model_validate(attributes | {"seeds": [1]}).seeds == (1,)
    del attributes["folds"]
    assert ExperimentSpec.model_validate(attributes).seeds == (0,)
