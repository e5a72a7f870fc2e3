"""The code location: loads the components and defs of a project, nothing else."""

from __future__ import annotations

import gc
import warnings
from importlib import import_module
from pathlib import Path

import dagster as dg

from platform_assets.executors import EXECUTORS
from platform_assets.logs import console
from platform_assets.resources import resources
from platform_assets.settings import Settings

# What dagster's import left in memory stays for good; looking through it for garbage took 50 ms of a load (2026-11).
gc.freeze()


def project(package: str) -> dg.Definitions:
    """Everything defined in the folder `defs` of a package, with Kestrel's resources, executor and console log."""
    settings = Settings()
    collecting = gc.isenabled()
    gc.disable()  # what is loaded stays too
    try:
        return _project(package, settings)
    finally:
        if collecting:
            gc.enable()


def _project(package: str, settings: Settings) -> dg.Definitions:
    platform = dg.Definitions(
        resources=resources(settings), executor=EXECUTORS[settings.executor], loggers={"console": console}
    )
    return dg.Definitions.merge(_defs_folder(package), platform)


def _defs_folder(package: str) -> dg.Definitions:
    """What `load_from_defs_folder` gives, less the schemas of dagster's own components for the UI's Docs page.

    2026-11: it makes those at every load, for 90 ms; use it again when they are made on demand.
    """
    module = import_module(f"{package}.defs")
    tree = dg.ComponentTree(defs_module=module, project_root=Path(module.__path__[0]).parents[1])
    with warnings.catch_warnings():  # of dagster about its own use of what it calls beta; it silences them as well
        for category in (dg.BetaWarning, dg.PreviewWarning):
            warnings.simplefilter("ignore", category)
        return dg.Definitions.merge(tree.build_defs(tree.defs_module_path), dg.Definitions(component_tree=tree))


@dg.definitions
def defs() -> dg.Definitions:
    return project("platform_assets")
