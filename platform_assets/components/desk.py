"""What a step of an experiment works with: its context, inputs and opened stores, and where a trial's result is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from platform_assets.components.inputs import Inputs, open_inputs

if TYPE_CHECKING:
    import dagster as dg

    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.resources import ComputeResource, FilesResource
    from platform_assets.stores.outputs import OutputFolder, Outputs
    from platform_assets.stores.runs import Runs
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.recipes.resolving import ResolvedTrial
    from platform_assets.vision.training.pixels import Pixels

DESK_RESOURCES = {"tables", "outputs", "runs", "files", "compute"}


class CheckpointRow(BaseModel):
    """One row of the checkpoint table: where a trial's files are and what they were made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: str
    run_id: str
    config_hash: str
    checkpoint_id: str
    input_version: str
    folder_url: str
    device: str
    parameters: int
    train_seconds: float
    started_ms: int
    ended_ms: int


@dataclass(frozen=True)
class Desk:
    """Opened once a step; `pixels` keeps decoded images from one trial to the next."""

    context: dg.AssetExecutionContext
    inputs: Inputs
    tables: Tables
    outputs: Outputs
    runs: Runs
    files: FilesResource
    compute: ComputeResource
    pixels: Pixels

    @property
    def spec(self) -> ExperimentSpec:
        return self.inputs.spec

    def key(self, asset: str) -> list[str]:
        return [*self.spec.key, asset]

    def row(self, trial: str) -> CheckpointRow:
        """The checkpoint of a trial. Raises MissingTable, naming the command that makes it."""
        return CheckpointRow(**self.tables.read(self.key("checkpoint"), trial).row(0, named=True))

    def folder(self, trial: str) -> OutputFolder:
        return self.outputs.at(self.row(trial).folder_url)

    def note(self, asset: str, trial: ResolvedTrial, metadata: dict[str, Any]) -> None:
        """What the UI shows of one partition of an asset."""
        self.context.add_asset_metadata(metadata, asset_key=self.key(asset), partition_key=trial.trial)


def open_desk(context: dg.AssetExecutionContext, spec: ExperimentSpec, dataset: VisionDatasetSpec) -> Desk:
    """Open every store of a step that requires DESK_RESOURCES."""
    from platform_assets.components.metadata import every_two_seconds
    from platform_assets.vision.training.pixels import Pixels

    context.log.info("opening the stores")
    found = context.resources
    tables = found.tables.open()
    inputs = open_inputs(spec, dataset, tables, found.files, say=context.log.info)
    return Desk(
        context=context,
        inputs=inputs,
        tables=tables,
        outputs=found.outputs.open(),
        runs=found.runs.open(),
        files=found.files,
        compute=found.compute,
        pixels=Pixels(
            inputs.root,
            spill=found.files.decoded(),
            on_image=every_two_seconds(context.log.info, "decoding images"),
            cache=found.files.pixel_cache(),
            say=context.log.info,
        ),
    )
