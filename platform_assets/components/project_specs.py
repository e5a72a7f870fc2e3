"""What the YAML files of a project define, read without the assets that it becomes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.vision_dataset import VisionDatasetSpec


def experiments(project: Path) -> list[ExperimentSpec]:
    """The experiments of a project; nothing but its YAML files is read."""
    from platform_assets.components import Experiment

    return [found.spec for found in _tree(project).get_all_components(of_type=Experiment)]


def dataset_of(spec: ExperimentSpec, project: Path) -> VisionDatasetSpec:
    """The dataset that an experiment of a project names."""
    from platform_assets.components import VisionDataset

    found = [made.spec for made in _tree(project).get_all_components(of_type=VisionDataset)]
    return next(dataset for dataset in found if dataset.name == spec.dataset)


def _tree(project: Path) -> dg.ComponentTree:
    # A project is a package that nobody installs: `dagster -m` finds it from the working directory, and so must this.
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    return dg.ComponentTree.for_project(project)
