"""Which run folder a person means: by its place, a checkpoint, an MLflow run, a dagster run and trial, or a trial alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from platform_assets.settings import Settings

if TYPE_CHECKING:
    from platform_assets.stores.outputs import OutputFolder, Outputs

NAMES = (
    "its folder, its checkpoint_id (16 hex digits), its MLflow run (32), a dagster run (with --trial where it has "
    "several), or DATASET/EXPERIMENT/TRIAL"
)
_CHECKPOINT, _MLFLOW = re.compile("[0-9a-f]{16}"), re.compile("[0-9a-f]{32}")
_DAGSTER = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class UnknownRun(ValueError):
    """A name that stands for no run folder, or for several."""


def folder_named(name: str, trial: str | None, settings: Settings) -> OutputFolder:
    """The finished folder of one trial. Raises UnknownRun; whether its files are whole is not looked at."""
    from platform_assets.resources import resources

    outputs: Outputs = resources(settings)["outputs"].open()
    if _CHECKPOINT.fullmatch(name):
        # One checkpoint of several runs has the same weights and the same config, whichever is taken.
        found = outputs.find(checkpoint_id=name)[:1]
    elif _MLFLOW.fullmatch(name):
        found = [outputs.at(url)] if (url := _of_mlflow(name, settings)) else []
    elif _DAGSTER.fullmatch(name):
        found = outputs.find(run_id=name)
    elif Path(name).is_dir() or "://" in name:
        found = [_at(name, outputs, settings)]
    else:
        found = [outputs.at(_of_trial(name, settings))]
    found = [folder for folder in found if trial is None or trial_of(folder) == trial]
    if len(found) > 1:
        trials = ", ".join(trial_of(folder) for folder in found)
        raise UnknownRun(f"{name}: the run has {len(found)} trials; name one with --trial: {trials}")
    if not found:
        of = f" of trial {trial}" if trial else ""
        raise UnknownRun(f"{name}: no finished folder{of} below {outputs.root}; a run is named by {NAMES}")
    return found[0]


def trial_of(folder: OutputFolder) -> str:
    """The partition key of the trial whose files these are."""
    from platform_assets.vision.recipes.resolving import ResolvedTrial

    return ResolvedTrial.model_validate_json(folder.path("config.json").read_bytes()).trial


def _of_mlflow(run_id: str, settings: Settings) -> str | None:
    from platform_assets.stores.run_table import RunTable

    return RunTable(settings.mlflow_uri, settings.cache_dir / "sql").folder_url(run_id)


def _of_trial(name: str, settings: Settings) -> str:
    """By the checkpoint table, which has the newest of each trial."""
    from platform_assets.stores.tables import BadTableName, MissingTable, Tables

    parts = name.split("/")
    try:
        if len(parts) != 3:
            raise BadTableName(name)
        found: str = Tables(settings.tables_dir).read([*parts[:2], "checkpoint"], parts[2])["folder_url"][0]
    except (BadTableName, MissingTable):
        raise UnknownRun(f"{name}: no such folder, run or trial here; a run is named by {NAMES}") from None
    return found


def _at(name: str, outputs: Outputs, settings: Settings) -> OutputFolder:
    """A folder of the project's outputs, or one of other outputs that lies on this machine or at a URL."""
    from platform_assets.stores.outputs import Outputs

    url = name if "://" in name else str(Path(name).resolve())
    if url.startswith(f"{outputs.root}/"):
        return outputs.at(url)
    above = url.rstrip("/").rsplit("/", 3)[0]
    return Outputs(above, scratch=settings.cache_dir / "outputs").at(url)
