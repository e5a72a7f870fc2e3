"""What a trial was made from, found again from its folder: its data version, images, weights and device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platform_assets.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.inputs import Inputs
    from platform_assets.resources import FilesResource
    from platform_assets.stores.outputs import OutputFolder, Outputs
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.machine.devices import Device
    from platform_assets.vision.networks.weight_files import WeightsFile
    from platform_assets.vision.recipes.resolving import ResolvedTrial
    from platform_assets.vision.training.pixels import Pixels

Say = Callable[[str], None]


class CannotReplay(ValueError):
    """Something that the trial was made from is not here any more."""


@dataclass(frozen=True)
class Replay:
    """A trial's folder, and what it was made from as it is on this machine. All that is written goes below `scratch`.

    `inputs` has the records of the trial's own data version, in the parts that the trial had.
    """

    folder: OutputFolder
    trial: ResolvedTrial
    environment: dict[str, Any]
    inputs: Inputs
    start: WeightsFile | None
    device: Device
    threads: int | None
    outputs: Outputs
    files: FilesResource
    settings: Settings
    scratch: Path
    say: Say

    @property
    def checkpoint_id(self) -> str:
        return self.folder.manifest().checkpoint_id

    def pixels(self) -> Pixels:
        from platform_assets.vision.training.pixels import Pixels

        return Pixels(self.inputs.root, spill=self.scratch / "decoded", cache=self.files.pixel_cache())


def open_replay(folder: OutputFolder, settings: Settings, scratch: Path, say: Say) -> Replay:
    """Find what the trial was made from. Raises CannotReplay, and UnknownDataset without the YAML of its dataset."""
    from platform_assets.resources import resources
    from platform_assets.vision.recipes.resolving import ResolvedTrial

    if problems := folder.verify():
        raise CannotReplay(f"{problems[0]}; restore the folder first")
    fit = json.loads(folder.path("fit.json").read_bytes())
    trial = ResolvedTrial.model_validate_json(folder.path("config.json").read_bytes())
    opened = resources(settings)
    inputs = _inputs(folder, trial, fit["records_version"], settings, say)
    return Replay(
        folder=folder,
        trial=trial,
        environment=json.loads(folder.path("env.json").read_bytes()),
        inputs=inputs,
        start=_start(trial, inputs),
        device=_device(fit["device"], say),
        threads=fit.get("computing_threads"),
        outputs=opened["outputs"].open(),
        files=opened["files"],
        settings=settings,
        scratch=scratch,
        say=say,
    )


def _inputs(folder: OutputFolder, trial: ResolvedTrial, version: str, settings: Settings, say: Say) -> Inputs:
    from platform_assets.commands.project_datasets import ProjectDatasets
    from platform_assets.components.inputs import Inputs
    from platform_assets.components.project_specs import experiments
    from platform_assets.resources import resources
    from platform_assets.vision.datasets.label_map import LabelMap

    key = [trial.dataset, trial.experiment]
    spec = next((spec for spec in experiments(settings.root) if spec.key == key), None)
    if spec is None:
        raise CannotReplay(f"{'/'.join(key)} is not defined in {settings.root}; put back its YAML")
    dataset = ProjectDatasets(settings.root, "", settings.data_dir).spec(trial.dataset)
    opened = resources(settings)
    tables, files = opened["tables"].open(), opened["files"]
    inputs = Inputs(
        spec=spec,
        dataset=dataset,
        records=_records(folder, trial, version, tables),
        records_version=version,
        label_map=LabelMap.from_json(folder.path("labelmap.json").read_text(encoding="utf-8")),
        root=files.tiny_subset(dataset.name) if "-tiny" in version else files.source_root(dataset.source),
        tables=tables,
        places=files.weight_places(),
        say=say,
    )
    _require_images(inputs)
    return inputs


def _records(folder: OutputFolder, trial: ResolvedTrial, version: str, tables: Tables) -> pl.DataFrame:
    """The kept records of a version, in the order, with the labels and in the parts that the trial had."""
    import polars as pl

    from platform_assets.stores.tables import MissingTable

    of = version.split("-")[0]
    try:
        kept = tables.read([trial.dataset, "records"], version=of)
    except MissingTable:
        cure = f"restore its records below {tables.root}"
        raise CannotReplay(f"data version {of} of {trial.dataset} is not kept here; {cure}") from None
    parts = pl.read_parquet(folder.path("parts.parquet"))
    unknown = parts.join(kept, on=["image_id", "path"], how="anti")
    if not unknown.is_empty():
        raise CannotReplay(
            f"data version {of} of {trial.dataset} has no image {unknown['path'][0]}, which the trial had"
        )
    return parts.join(kept.drop("label", "split"), on=["image_id", "path"], how="left", maintain_order="left")


def _require_images(inputs: Inputs) -> None:
    """Every image has the bytes that its id is the hash of. Raises CannotReplay, naming the first that has not."""
    for image_id, path in inputs.records.select("image_id", "path").rows():
        place = inputs.root / path
        try:
            with place.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise CannotReplay(f"data version {inputs.records_version}: {place} is missing; restore it") from None
        if found != image_id:
            said = f"{place} has SHA-256 {found[:12]} and had {image_id[:12]}"
            raise CannotReplay(f"data version {inputs.records_version}: {said}; restore that file")


def _start(trial: ResolvedTrial, inputs: Inputs) -> WeightsFile | None:
    """The file of the weights that the trial started from, if it is on this machine. Raises CannotReplay."""
    from platform_assets.vision.networks.weight_files import NoPretrainedWeights, WeightsChanged, WeightsMissing, locate
    from platform_assets.vision.recipes.backbones import get_backbone

    if trial.pretrained_sha256 is None:
        return None
    variant = inputs.spec.variants.get(trial.variant)
    try:
        if variant is not None and variant.weights is not None:
            found = inputs.start(variant)
        else:
            found = locate(get_backbone(trial.backbone), inputs.places)
    except (NoPretrainedWeights, WeightsChanged, WeightsMissing) as error:
        raise CannotReplay(f"the weights it started from are not here: {error}") from error
    if found is None or found.sha256 != trial.pretrained_sha256:
        here = f"here are {found.sha256[:16]} at {found.path}" if found else "they would have to be downloaded"
        wanted = f"{trial.backbone} with SHA-256 {trial.pretrained_sha256[:16]}"
        raise CannotReplay(f"the weights it started from are not here: {wanted}; {here}")
    return found


def _device(recorded: Device, say: Say) -> Device:
    from platform_assets.vision.machine.devices import available_devices

    present = available_devices()
    if recorded in present:
        return recorded
    say(f"fitted on {recorded}, which is not here: on {present[0]} other weights are to be expected")
    return present[0]
