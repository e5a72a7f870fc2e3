"""What the trials of an experiment stand on: the records of one dataset version, its label map and its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from platform_assets.components.records_steps import read_label_map
from platform_assets.vision.images.cropping import require_boxes
from platform_assets.vision.recipes.combination_options import members_of, resolve_combination
from platform_assets.vision.recipes.modes import COMBINATION_MODES
from platform_assets.vision.recipes.resolving import Member, Protocol, ResolvedTrial, resolve_trial
from platform_assets.vision.recipes.tuning_options import best_parameters, with_best
from platform_assets.vision.recipes.variants import Variant

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.resources import FilesResource
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.datasets.label_map import LabelMap
    from platform_assets.vision.networks.weight_files import WeightPlaces, WeightsFile, WeightsMissing
    from platform_assets.vision.recipes.evaluation_rules import EvaluationRules

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
    tables: Tables
    places: WeightPlaces
    say: Callable[[str], None]
    _starts: dict[tuple[str, str | None], WeightsFile | WeightsMissing | None] = field(default_factory=dict)

    @property
    def protocol(self) -> Protocol:
        return self.spec.protocol(self.label_map.checksum)

    def trial(self, partition: str) -> ResolvedTrial:
        """With the best options of its search where it is tuned. Raises MissingTable, naming the command."""
        name, seed = self.spec.trials[partition]
        variant = self.spec.variants[name]
        if variant.mode in COMBINATION_MODES:
            members = [self._member(key) for key in members_of(variant, self.spec.trials)]
            return resolve_combination(variant, name=name, seed=seed, protocol=self.protocol, members=members)
        if variant.tuned_by is not None:
            search = [*self.spec.key, f"tuning_{variant.tuned_by}"]
            self.tables.read(search)  # its error names the asset that was not materialized
            variant = with_best(variant, best_parameters(self.tables.read([*search, "best"])))
        return self.resolve(variant, name, seed)

    def _member(self, partition: str) -> Member:
        """A finished trial. Raises MissingTable, naming its command, and StaleMember."""
        trial = self.trial(partition)
        row = self.tables.read([*self.spec.key, "checkpoint"], partition).row(0, named=True)
        if row["config_hash"] != trial.config_hash:
            raise StaleMember(
                f"{partition}: its YAML changed since it was trained; materialize it before what is made of it"
            )
        return Member(trial=trial, config_hash=trial.config_hash, checkpoint_id=row["checkpoint_id"])

    def known_config_hash(self, partition: str) -> str:
        """That of a trial; of one whose search or weights are missing it says so, which is no fault of the others."""
        from platform_assets.stores.tables import MissingTable
        from platform_assets.vision.networks.weight_files import WeightsMissing

        try:
            return self.trial(partition).config_hash
        except (MissingTable, StaleMember, WeightsMissing):
            return "not resolved"

    def resolve(self, variant: Variant, name: str, seed: int) -> ResolvedTrial:
        """Every default of a variant filled in, its weights found. Raises WeightsMissing and WeightsChanged."""
        start = self.start(variant)
        sha256 = start.sha256 if start else None
        return resolve_trial(variant, name=name, seed=seed, protocol=self.protocol, pretrained_sha256=sha256)

    def start(self, variant: Variant) -> WeightsFile | None:
        """The file that a variant starts from, looked for once; None where it starts from random weights.

        A download that failed is not tried again for every seed. Raises WeightsMissing and WeightsChanged.
        """
        from platform_assets.vision.networks.weight_files import WeightsMissing, weights_of

        if variant.mode in ("scratch", *COMBINATION_MODES) or not variant.pretrained:
            return None
        named = (variant.backbone, variant.weights)
        if named not in self._starts:
            try:
                self._starts[named] = weights_of(variant, self.places, say=self.say)
            except WeightsMissing as error:
                self._starts[named] = error
        found = self._starts[named]
        if isinstance(found, WeightsMissing):
            raise found
        return found

    def groups_of(self, records: pl.DataFrame) -> pl.Series:
        """For each image the name of what its dataset says is not independent of it; null for an image by itself."""
        import polars as pl

        from platform_assets.vision.datasets.splits import units_of

        said = ("group", *self.dataset.split.kept_together_by)
        names = units_of(records, [name for name in dict.fromkeys(said) if name in records.columns])
        groups = pl.DataFrame({"group": names}).select(pl.when(pl.col("group").is_duplicated()).then("group"))
        return groups["group"]

    def rules_of(self, records: pl.DataFrame) -> EvaluationRules:
        """What the metrics of these records go by beside the predictions. Raises BadCosts."""
        from platform_assets.vision.recipes.evaluation_rules import evaluation_rules

        return evaluation_rules(records, self.label_map, self.spec.costs)

    def records_of(self, trial: ResolvedTrial) -> pl.DataFrame:
        """The records with the split of this trial: the dataset's, or one drawn with the trial's seed."""
        from platform_assets.vision.datasets.folds import fold_of_seed
        from platform_assets.vision.datasets.splits import assign_splits

        if trial.folds is not None:
            groups = self.dataset.split.kept_together_by
            return fold_of_seed(self.records, trial.folds, trial.seed, group_by=groups)
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


class StaleMember(ValueError):
    """A soup or ensemble of a trial that is not what the YAML asks for now."""


class BadTarget(ValueError):
    """An experiment predicts a column that its dataset does not have for every image."""


def with_target(records: pl.DataFrame, label_map: LabelMap, target: str) -> tuple[pl.DataFrame, LabelMap]:
    """The records with `target` as their label, and its label map: the dataset's own, or its names by code point.

    Raises BadTarget.
    """
    import polars as pl

    from platform_assets.vision.datasets.label_map import LabelMap

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


def _require_evaluation_fits(spec: ExperimentSpec, records: pl.DataFrame, label_map: LabelMap) -> None:
    """Before anything is trained. Raises BadCosts and BadSlices with the key, SpectralUnavailable."""
    if spec.costs is not None:
        from platform_assets.vision.recipes.evaluation_rules import cost_matrix

        cost_matrix(spec.costs, label_map)
    if spec.slices is not None:
        from platform_assets.vision.evaluation.slices import slice_columns

        slice_columns(records, spec.slices)
    if spec.spectral_alpha:
        from platform_assets.vision.evaluation.spectral_alpha import require_weightwatcher

        require_weightwatcher()


def open_inputs(
    spec: ExperimentSpec,
    dataset: VisionDatasetSpec,
    tables: Tables,
    files: FilesResource,
    say: Callable[[str], None] = lambda text: None,
) -> Inputs:
    """Read the current version of the dataset, or of its tiny subset. Raises UnsoundRecords, BadCosts, BadSlices."""
    require_sound(tables, dataset.name)
    tiny = spec.subset == "tiny"
    name = "tiny_subset" if tiny else "records"
    records, label_map = with_target(
        tables.read([dataset.name, name]), read_label_map(tables, dataset.name), spec.target
    )
    if spec.crop_to_box is not None:
        require_boxes(records, "/".join(spec.key))
    _require_evaluation_fits(spec, records, label_map)
    version = tables.current_version([dataset.name, "records"])
    of = "" if spec.target == "label" else f"-{spec.target}"
    return Inputs(
        spec=spec,
        dataset=dataset,
        records=records,
        records_version=f"{version}{'-tiny' if tiny else ''}{of}",
        label_map=label_map,
        root=files.tiny_subset(dataset.name) if tiny else files.source_root(dataset.source),
        tables=tables,
        places=files.weight_places(),
        say=say,
    )
