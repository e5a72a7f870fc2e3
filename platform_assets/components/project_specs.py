"""What the YAML files of a project define, read without the assets that it becomes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import dagster as dg
import yaml
from dagster.components.core.component_tree import ComponentTreeException

if TYPE_CHECKING:
    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.vision_dataset import VisionDatasetSpec


Kind = TypeVar("Kind", bound=dg.Component)


class BadYaml(ValueError):
    """YAML that describes nothing of the project's; the message names file, line and key."""


def experiments(project: Path) -> list[ExperimentSpec]:
    """The experiments of a project; nothing but its YAML files is read."""
    from platform_assets.components import Experiment

    return [found.spec for found in components_of(project, Experiment)]


def dataset_of(spec: ExperimentSpec, project: Path) -> VisionDatasetSpec:
    """The dataset that an experiment of a project names."""
    from platform_assets.components import VisionDataset

    found = [made.spec for made in components_of(project, VisionDataset)]
    return next(dataset for dataset in found if dataset.name == spec.dataset)


def components_of(project: Path, kind: type[Kind]) -> list[Kind]:
    """The components of a kind, whatever folder they stand in. Raises BadYaml."""
    # A project is a package that nobody installs: `dagster -m` finds it from the working directory, and so must this.
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    try:
        return dg.ComponentTree.for_project(project).get_all_components(of_type=kind)
    except (ComponentTreeException, yaml.YAMLError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise BadYaml(str(cause).strip()) from error
