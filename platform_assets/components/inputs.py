"""What the trials of an experiment stand on: the records of one dataset version, its label map and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from platform_assets.components.dataset_steps import read_label_map
from platform_assets.vision.recipes import Protocol, ResolvedTrial, resolve_trial
from platform_assets.vision.sources import source_root

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.experiment import ExperimentSpec
    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.resources import FilesResource
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.label_map import LabelMap


@dataclass(frozen=True)
class Inputs:
    """`records` are those of the dataset's own split; `records_of` gives a trial its own."""

    spec: ExperimentSpec
    dataset: VisionDatasetSpec
    records: pl.DataFrame
    records_version: str
    label_map: LabelMap
    root: Path

    @property
    def protocol(self) -> Protocol:
        return Protocol(
            dataset=self.spec.dataset,
            experiment=self.spec.name,
            metric=self.spec.metric,
            label_map_checksum=self.label_map.checksum,
            image_size_px=self.spec.image_size_px,
            resize=self.spec.resize,
            resample=self.spec.resample,
        )

    def trial(self, partition: str) -> ResolvedTrial:
        name, seed = self.spec.trials[partition]
        return resolve_trial(self.spec.variants[name], name=name, seed=seed, protocol=self.protocol)

    def records_of(self, trial: ResolvedTrial) -> pl.DataFrame:
        """The records with the split of this trial: the dataset's, or one drawn with the trial's seed."""
        from platform_assets.vision.splits import assign_splits

        if trial.split_seed is None:
            return self.records
        return assign_splits(self.records, self.dataset.split, seed=trial.split_seed)


def open_inputs(spec: ExperimentSpec, dataset: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Inputs:
    """Read the current version of the dataset, or of its tiny subset."""
    tiny = spec.subset == "tiny"
    name = "tiny_subset" if tiny else "records"
    return Inputs(
        spec=spec,
        dataset=dataset,
        records=tables.read([dataset.name, name]),
        records_version=f"{tables.current_version([dataset.name, 'records'])}{'-tiny' if tiny else ''}",
        label_map=read_label_map(tables, dataset.name),
        root=files.tiny_subset(dataset.name) if tiny else source_root(dataset.source, Path(files.root)),
    )
