"""What the trials of an experiment stand on: the records of one dataset version, its label map and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from platform_assets.components.records_steps import read_label_map
from platform_assets.vision.cropping import require_boxes
from platform_assets.vision.recipes import Protocol, ResolvedTrial, resolve_trial

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.resources import FilesResource
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.label_map import LabelMap

NO_TARGETS = ("image_id", "path", "split", "group", "mode", "format", "phash", "mask")


@dataclass(frozen=True)
class Inputs:
    """`records` are those of the dataset's own split; `records_of` gives a trial its own.

    `records_version` names what was read of a dataset version as well: its tiny subset, another column as the label.
    """

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
            crop_to_box=self.spec.crop_to_box,
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


class UnsoundRecords(ValueError):
    """The records of a dataset failed a blocking check."""


def require_sound(tables: Tables, dataset: str) -> None:
    """Raises UnsoundRecords when the current version failed a blocking check, in whichever run that was."""
    if tables.exists([dataset, "faults"]):
        for check, said in tables.read([dataset, "faults"]).iter_rows():
            raise UnsoundRecords(
                f"{dataset}/records failed its blocking check {check}: {said or 'see the check in the UI'}; "
                "mend the data or its YAML and materialize records again"
            )


class BadTarget(ValueError):
    """An experiment predicts a column that its dataset does not have for every image."""


def with_target(records: pl.DataFrame, label_map: LabelMap, target: str) -> tuple[pl.DataFrame, LabelMap]:
    """The records with `target` as their label, and its label map: the dataset's own, or its names by code point.

    Raises BadTarget.
    """
    import polars as pl

    from platform_assets.vision.label_map import LabelMap

    if target == "label":
        return records, label_map
    texts = [name for name, kind in records.schema.items() if kind == pl.String and name not in NO_TARGETS]
    if target not in texts:
        raise BadTarget(f"target {target!r} is no column of labels; the records have {', '.join(texts)}")
    if missing := records[target].null_count():
        first = records.filter(pl.col(target).is_null())["path"][0]
        raise BadTarget(
            f"target {target!r} is empty for {missing} of {records.height} images, the first is {first}; fill it in"
        )
    return records.with_columns(label=pl.col(target)), LabelMap.from_labels(records[target])


def open_inputs(spec: ExperimentSpec, dataset: VisionDatasetSpec, tables: Tables, files: FilesResource) -> Inputs:
    """Read the current version of the dataset, or of its tiny subset. Raises UnsoundRecords."""
    require_sound(tables, dataset.name)
    tiny = spec.subset == "tiny"
    name = "tiny_subset" if tiny else "records"
    records, label_map = with_target(
        tables.read([dataset.name, name]), read_label_map(tables, dataset.name), spec.target
    )
    if spec.crop_to_box is not None:
        require_boxes(records, "/".join(spec.key))
    version = tables.current_version([dataset.name, "records"])
    of = "" if spec.target == "label" else f"-{spec.target}"
    return Inputs(
        spec=spec,
        dataset=dataset,
        records=records,
        records_version=f"{version}{'-tiny' if tiny else ''}{of}",
        label_map=label_map,
        root=files.tiny_subset(dataset.name) if tiny else files.source_root(dataset.source),
    )
