"""The Experiment component: one YAML file names a dataset and variants, and becomes trials, a champion and its exports."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
from pydantic import BaseModel

from platform_assets.components import (
    baseline_steps,
    champion_steps,
    checkpoint_steps,
    delivery_steps,
    embedding_steps,
    leaderboard_steps,
    metrics_steps,
    report_steps,
    trial_checks,
    trial_steps,
    tuning_steps,
    vector_steps,
)
from platform_assets.components.automation import retrain_job, weekly_retrain
from platform_assets.components.desk import DESK_RESOURCES, open_desk
from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.inputs import open_inputs
from platform_assets.components.promotion_request import PromotionRequest
from platform_assets.components.specs import SINGLE_RUN, asset_spec
from platform_assets.components.vision_dataset import VisionDataset, VisionDatasetSpec
from platform_assets.resources import (
    ComputeResource,
    FilesResource,
    OutputsResource,
    RunsResource,
    TablesResource,
)
from platform_assets.vision.modes import FROZEN_MODES

POOL = "accelerator"


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
        if baseline_steps.has_baselines(spec):
            probes.append(_baseline_table(spec))
        after = [_leaderboard(spec), _champion(spec, dataset), _exports(spec, dataset), _model_card(spec, dataset)]
        assets = [*probes, _trials(spec, dataset), *after]
        checks = [leaderboard_steps.manifest_check(spec), delivery_steps.parity_check(spec, dataset)]
        reported = [key for made in (*assets, *checks) for key in made.check_keys]
        return dg.Definitions(
            assets=[*assets, _report(spec, dataset, reported)],
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


def _spec(spec: ExperimentSpec, name: str, text: str, deps: Sequence[str], **more: Any) -> dg.AssetSpec:
    """`deps` name assets of this experiment, or `dataset.<asset>`."""
    paths = [[spec.dataset, d.removeprefix("dataset.")] if d.startswith("dataset.") else [*spec.key, d] for d in deps]
    return asset_spec([*spec.key, name], text, deps=paths, owners=spec.owners, **more)


def _inputs(spec: ExperimentSpec) -> list[str]:
    tiny = ["dataset.tiny_subset"] if spec.subset == "tiny" else []
    return ["dataset.records", "dataset.label_map", *tiny]


def _op_name(spec: ExperimentSpec, name: str) -> str:
    return f"{spec.group}__{name}"


def _embeddings(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    kinds, code = {"pytorch", "openvino", "parquet"}, ["vision.embedding", "vision.weights"]
    asset = _spec(spec, "embeddings", embedding_steps.EMBEDDINGS, _inputs(spec), kinds=kinds, code=code)

    @dg.multi_asset(name=_op_name(spec, "embeddings"), specs=[asset], pool=POOL, backfill_policy=SINGLE_RUN)
    def embeddings(
        context: dg.AssetExecutionContext, tables: TablesResource, files: FilesResource, compute: ComputeResource
    ) -> dg.MaterializeResult[Any]:
        store = tables.open()
        inputs = open_inputs(spec, dataset, store, files)
        return embedding_steps.embeddings(context, inputs, store, files.embedding_cache(), compute)

    return embeddings


def _label_issues(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    kinds, code = (
        {"scikitlearn", "parquet"},
        ["vision.quality.label_faults", "vision.quality.reviews", "vision.quality.label_studio"],
    )
    asset = _spec(spec, "label_issues", vector_steps.LABEL_ISSUES, ["embeddings"], kinds=kinds, code=code)

    @dg.multi_asset(
        name=_op_name(spec, "label_issues"),
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
    asset = _spec(spec, f"tuning_{name}", tuning_steps.TUNING, deps, kinds=kinds, code=code)

    @dg.multi_asset(
        name=_op_name(spec, f"tuning_{name}"),
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
    return [_spec(spec, name, text, deps, kinds=k, code=code, skippable=True) for name, text, deps, k, code in rows]


def _trials(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=_op_name(spec, "trials"),
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


def _leaderboard(spec: ExperimentSpec) -> dg.AssetsDefinition:
    deps, kinds, code = ["metrics", "predictions"], {"polars", "parquet"}, ["vision.leaderboards"]
    asset = _spec(spec, "leaderboard", leaderboard_steps.LEADERBOARD, deps, kinds=kinds, code=code)

    @dg.multi_asset(name=_op_name(spec, "leaderboard"), specs=[asset], backfill_policy=SINGLE_RUN)
    def leaderboard(tables: TablesResource) -> dg.MaterializeResult[Any]:
        return leaderboard_steps.leaderboard(spec, tables.open())

    return leaderboard


def _baseline_table(spec: ExperimentSpec) -> dg.AssetsDefinition:
    kinds, code = {"polars", "csv", "json"}, ["vision.evaluation"]
    asset = _spec(spec, "baseline_table", baseline_steps.BASELINE_TABLE, ["metrics"], kinds=kinds, code=code)

    @dg.multi_asset(name=_op_name(spec, "baseline_table"), specs=[asset], backfill_policy=SINGLE_RUN)
    def baseline_table(
        tables: TablesResource, outputs: OutputsResource, runs: RunsResource
    ) -> dg.MaterializeResult[Any]:
        return baseline_steps.baseline_table(spec, tables.open(), outputs.open(), runs.open())

    return baseline_table


def _champion(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    deps, code = ["leaderboard", "checkpoint"], ["vision.gates", "vision.gate_evidence", "vision.comparison"]
    asset = _spec(spec, "champion", champion_steps.CHAMPION, deps, kinds={"mlflow"}, code=code)

    @dg.multi_asset(
        name=_op_name(spec, "champion"),
        specs=[asset],
        check_specs=[champion_steps.gate_check(spec)],
        required_resource_keys=DESK_RESOURCES,
        pool=POOL,
        backfill_policy=SINGLE_RUN,
    )
    def champion(context: dg.AssetExecutionContext, config: PromotionRequest) -> Iterator[dg.MaterializeResult[Any]]:
        yield champion_steps.champion(open_desk(context, spec, dataset), config)

    return champion


def _exports(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    asset = _spec(spec, "exports", delivery_steps.EXPORTS, ["champion"], kinds={"onnx"}, code=["vision.exporting"])

    @dg.multi_asset(
        name=_op_name(spec, "exports"),
        specs=[asset],
        pool=POOL,
        backfill_policy=SINGLE_RUN,
    )
    def exports(
        context: dg.AssetExecutionContext, tables: TablesResource, outputs: OutputsResource, files: FilesResource
    ) -> dg.MaterializeResult[Any]:
        store = tables.open()
        inputs = open_inputs(spec, dataset, store, files)
        return delivery_steps.exports(context, inputs, store, outputs.open())

    return exports


def _model_card(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    deps, code = ["champion", "exports", "leaderboard"], ["vision.cards.model_card"]
    asset = _spec(spec, "model_card", delivery_steps.MODEL_CARD, deps, kinds={"markdown"}, code=code)

    @dg.multi_asset(name=_op_name(spec, "model_card"), specs=[asset], backfill_policy=SINGLE_RUN)
    def model_card(tables: TablesResource, outputs: OutputsResource, files: FilesResource) -> dg.MaterializeResult[Any]:
        store = tables.open()
        inputs = open_inputs(spec, dataset, store, files)
        return delivery_steps.model_card(inputs, store, outputs.open(), files)

    return model_card


def _report(
    spec: ExperimentSpec, dataset: VisionDatasetSpec, checks: Sequence[dg.AssetCheckKey]
) -> dg.AssetsDefinition:
    deps, code = ["leaderboard", "champion"], list(report_steps.CODE)
    asset = _spec(spec, "report", report_steps.REPORT, deps, kinds={"html"}, code=code)

    @dg.multi_asset(name=_op_name(spec, "report"), specs=[asset], backfill_policy=SINGLE_RUN)
    def report(
        context: dg.AssetExecutionContext, tables: TablesResource, outputs: OutputsResource, files: FilesResource
    ) -> dg.MaterializeResult[Any]:
        store = tables.open()
        evaluated = report_steps.latest_checks(context.instance, checks)
        facts = report_steps.report_facts(spec, store, outputs.open(), checks=evaluated)
        return report_steps.report(spec, dataset, facts, files)

    return report
