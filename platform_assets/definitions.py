"""The code location: loads the components and defs of a project, nothing else."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from platform_assets.executors import EXECUTORS
from platform_assets.logs import console
from platform_assets.resources import resources
from platform_assets.settings import Settings


def project(folder: Path) -> dg.Definitions:
    """Everything defined under `folder/defs`, with Kestrel's resources, executor and console log."""
    settings = Settings()
    platform = dg.Definitions(
        resources=resources(settings), executor=EXECUTORS[settings.executor], loggers={"console": console}
    )
    return dg.Definitions.merge(dg.load_from_defs_folder(path_within_project=folder), platform)


@dg.definitions
def defs() -> dg.Definitions:
    return project(Path(__file__).parent)
