"""The Experiment component: one YAML file names a dataset and variants, and becomes trials, a champion and its exports."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import BaseModel

from platform_assets.components import (
    checkpoint_steps,
    delivery_steps,
    embedding_steps,
    leaderboard_steps,
    metrics_steps,
    trial_checks,
    trial_steps,
    tuning_steps,
    vector_steps,
)
from platform_assets.components.automation import retrain_job, weekly_retrain
from platform_assets.components.desk import DESK_RESOURCES, open_desk
from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.inputs import open_inputs
from platform_assets.components.result_assets import report_asset, result_assets
from platform_assets.components.specs import POOL, SINGLE_RUN, experiment_asset, op_name
from platform_assets.components.vision_dataset import VisionDataset, VisionDatasetSpec
from platform_assets.resources import ComputeResource, FilesResource, TablesResource
from platform_assets.vision.recipes.modes import FROZEN_MODES


class UnknownDataset(ValueError):
    """An experiment names a dataset that no VisionDataset defines."""


class Experiment(dg.Component):
    """Variants of a model, several seeds each, on one dataset version: compared, gated, registered and exported."""

    def __init__(self, spec: ExperimentSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return ExperimentSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "Experiment":
        assert isinstance(attributes, ExperimentSpec)
        return cls(attributes)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        spec = self.spec
        dataset = _dataset(spec, context)
        probes = [_embeddings(spec, dataset)] if spec.has_probes else []
        if spec.has_probes and spec.subset == "all":
            probes.append(_label_issues(spec, dataset))
        probes += [_tuning(spec, dataset, name) for name in spec.tune]
        trials, results = _trials(spec, dataset), result_assets(spec, dataset)
        checks = [leaderboard_steps.manifest_check(spec), delivery_steps.parity_check(spec, dataset)]
        reported = [key for made in (*probes, trials, *results, *checks) for key in made.check_keys]
        return dg.Definitions(
            assets=[*probes, trials, *results, report_asset(spec, dataset, reported)],
            asset_checks=checks,
            jobs=[retrain_job(spec)] if spec.retrain else [],
            schedules=weekly_retrain(spec),
        )


def _dataset(spec: ExperimentSpec, context: dg.ComponentLoadContext) -> VisionDatasetSpec:
    """The dataset an experiment names. Raises UnknownDataset with file, line and key."""
    datasets = {
        found.spec.name: found.spec for found in context.component_tree.get_all_components(of_type=VisionDataset)
    }
    if spec.dataset not in datasets:
        known = ", ".join(sorted(datasets)) or "none"
        where = yaml_position(context, "dataset")
        raise UnknownDataset(
            f"`attributes.dataset at {where}`: no VisionDataset is named {spec.dataset!r} (defined: {known}); "
            "define it or correct the name"
        )
    dataset = datasets[spec.dataset]
    if spec.resample and dataset.split.kind == "official":
        where = yaml_position(context, "resample")
        raise ValueError(
            f"`attributes.resample at {where}`: {spec.dataset} has official parts, which are never drawn anew"
        )
    return dataset


def yaml_position(context: dg.ComponentLoadContext, key: str) -> str:
    """`file:line` of a key of the attributes, as the schema errors give it."""
    file = context.path / "defs.yaml" if context.path.is_dir() else context.path
    lines = file.read_text(encoding="utf-8").splitlines()
    line = next((n for n, text in enumerate(lines, 1) if text.strip().startswith(f"{key}:")), 1)
    return f"{file}:{line}"


def _inputs(spec: ExperimentSpec) -> list[str]:
    tiny = ["dataset.tiny_subset"] if spec.subset == "tiny" else []
    return ["dataset.records", "dataset.label_map", *tiny]


def _embeddings(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    kinds, code = {"pytorch", "openvino", "parquet"}, ["vision.networks.embedding", "vision.networks.weights"]
    asset = experiment_asset(spec, "embeddings", embedding_steps.EMBEDDINGS, _inputs(spec), kinds=kinds, code=code)

    @dg.multi_asset(name=op_name(spec, "embeddings"), specs=[asset], pool=POOL, backfill_policy=SINGLE_RUN)
    def embeddings(
        context: dg.AssetExecutionContext, tables: TablesResource, files: FilesResource, compute: ComputeResource
    ) -> dg.MaterializeResult[Any]:
        store = tables.open()
        inputs = open_inputs(spec, dataset, store, files)
        return embedding_steps.embeddings(context, inputs, store, files.embedding_cache(), compute)

    return embeddings


def _label_issues(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    kinds = {"scikitlearn", "parquet"}
    code = [f"vision.quality.{name}" for name in ("label_faults", "near_duplicates", "reviews", "label_studio")]
    asset = experiment_asset(spec, "label_issues", vector_steps.LABEL_ISSUES, ["embeddings"], kinds=kinds, code=code)

    @dg.multi_asset(
        name=op_name(spec, "label_issues"),
        specs=[asset],
        check_specs=vector_steps.checks(spec),
        backfill_policy=SINGLE_RUN,
    )
    def label_issues(
        context: dg.AssetExecutionContext, tables: TablesResource, files: FilesResource
    ) -> Iterator[dg.MaterializeResult[Any]]:
        store = tables.open()
        inputs = open_inputs(spec, dataset, store, files)
        yield vector_steps.label_issues(context, inputs, store, files.embedding_cache(), files)

    return label_issues


def _tuning(spec: ExperimentSpec, dataset: VisionDatasetSpec, name: str) -> dg.AssetsDefinition:
    kinds, code = {"optuna", "parquet", "mlflow"}, list(tuning_steps.CODE)
    needs_vectors = spec.variants[spec.tune[name].variant].mode in FROZEN_MODES
    deps = [*_inputs(spec), *(["embeddings"] if needs_vectors else [])]
    asset = experiment_asset(spec, f"tuning_{name}", tuning_steps.TUNING, deps, kinds=kinds, code=code)

    @dg.multi_asset(
        name=op_name(spec, f"tuning_{name}"),
        specs=[asset],
        required_resource_keys=DESK_RESOURCES,
        pool=POOL,
        backfill_policy=SINGLE_RUN,
    )
    def tuning(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        yield tuning_steps.tuning(open_desk(context, spec, dataset), name, spec.tune[name])

    return tuning


def _trial_specs(spec: ExperimentSpec) -> list[dg.AssetSpec]:
    searches = [f"tuning_{name}" for name in spec.tune]
    inputs = [*_inputs(spec), *(["embeddings"] if spec.has_probes else []), *searches]
    fitting, evaluation = list(checkpoint_steps.FITTING), list(trial_steps.EVALUATION)
    measured = [*evaluation, *metrics_steps.METRICS_FOLLOW]
    rows = [
        ("checkpoint", checkpoint_steps.CHECKPOINT, inputs, {"pytorch", "safetensors"}, fitting),
        ("predictions", trial_steps.PREDICTIONS, ["checkpoint"], {"pytorch", "parquet"}, evaluation),
        ("metrics", metrics_steps.METRICS, ["predictions"], {"parquet", "mlflow"}, measured),
    ]
    return [
        experiment_asset(spec, name, text, deps, kinds=k, code=code, skippable=True)
        for name, text, deps, k, code in rows
    ]


def _trials(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=op_name(spec, "trials"),
        specs=_trial_specs(spec),
        partitions_def=dg.StaticPartitionsDefinition(list(spec.trials)),
        check_specs=trial_checks.checks(spec),
        required_resource_keys=DESK_RESOURCES,
        can_subset=True,
        pool=POOL,
        backfill_policy=SINGLE_RUN,
    )
    def trials(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        yield from trial_steps.trials(open_desk(context, spec, dataset))

    return trials
