"""The assets that follow from all trials of an experiment: compared, gated, exported, described and reported."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from platform_assets.components import (
    baseline_steps,
    champion_steps,
    delivery_steps,
    leaderboard_steps,
    report_steps,
)
from platform_assets.components.desk import DESK_RESOURCES, open_desk
from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.inputs import open_inputs
from platform_assets.components.promotion_request import PromotionRequest
from platform_assets.components.specs import POOL, SINGLE_RUN, experiment_asset, op_name
from platform_assets.components.vision_dataset import VisionDatasetSpec
from platform_assets.resources import FilesResource, OutputsResource, RunsResource, TablesResource


def result_assets(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> list[dg.AssetsDefinition]:
    """All but the report, which looks at the checks of the others."""
    baselines = [_baseline_table(spec)] if baseline_steps.has_baselines(spec) else []
    return [
        *baselines,
        _leaderboard(spec),
        _champion(spec, dataset),
        _exports(spec, dataset),
        _model_card(spec, dataset),
    ]


def _leaderboard(spec: ExperimentSpec) -> dg.AssetsDefinition:
    deps, kinds, code = ["metrics", "predictions"], {"polars", "parquet"}, ["vision.evaluation.leaderboards"]
    asset = experiment_asset(spec, "leaderboard", leaderboard_steps.LEADERBOARD, deps, kinds=kinds, code=code)

    @dg.multi_asset(name=op_name(spec, "leaderboard"), specs=[asset], backfill_policy=SINGLE_RUN)
    def leaderboard(tables: TablesResource) -> dg.MaterializeResult[Any]:
        return leaderboard_steps.leaderboard(spec, tables.open())

    return leaderboard


def _baseline_table(spec: ExperimentSpec) -> dg.AssetsDefinition:
    kinds, code = {"polars", "csv", "json"}, ["vision.evaluation.predictions"]
    asset = experiment_asset(spec, "baseline_table", baseline_steps.BASELINE_TABLE, ["metrics"], kinds=kinds, code=code)

    @dg.multi_asset(name=op_name(spec, "baseline_table"), specs=[asset], backfill_policy=SINGLE_RUN)
    def baseline_table(
        tables: TablesResource, outputs: OutputsResource, runs: RunsResource
    ) -> dg.MaterializeResult[Any]:
        return baseline_steps.baseline_table(spec, tables.open(), outputs.open(), runs.open())

    return baseline_table


def _champion(spec: ExperimentSpec, dataset: VisionDatasetSpec) -> dg.AssetsDefinition:
    deps, code = (
        ["leaderboard", "checkpoint"],
        ["vision.evaluation.gates", "vision.evaluation.gate_evidence", "vision.evaluation.comparison"],
    )
    asset = experiment_asset(spec, "champion", champion_steps.CHAMPION, deps, kinds={"mlflow"}, code=code)

    @dg.multi_asset(
        name=op_name(spec, "champion"),
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
    asset = experiment_asset(
        spec, "exports", delivery_steps.EXPORTS, ["champion"], kinds={"onnx"}, code=["vision.networks.exporting"]
    )

    @dg.multi_asset(
        name=op_name(spec, "exports"),
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
    asset = experiment_asset(spec, "model_card", delivery_steps.MODEL_CARD, deps, kinds={"markdown"}, code=code)

    @dg.multi_asset(name=op_name(spec, "model_card"), specs=[asset], backfill_policy=SINGLE_RUN)
    def model_card(tables: TablesResource, outputs: OutputsResource, files: FilesResource) -> dg.MaterializeResult[Any]:
        store = tables.open()
        inputs = open_inputs(spec, dataset, store, files)
        return delivery_steps.model_card(inputs, store, outputs.open(), files)

    return model_card


def report_asset(
    spec: ExperimentSpec, dataset: VisionDatasetSpec, checks: Sequence[dg.AssetCheckKey]
) -> dg.AssetsDefinition:
    deps, code = ["leaderboard", "champion"], list(report_steps.CODE)
    asset = experiment_asset(spec, "report", report_steps.REPORT, deps, kinds={"html"}, code=code)

    @dg.multi_asset(name=op_name(spec, "report"), specs=[asset], backfill_policy=SINGLE_RUN)
    def report(
        context: dg.AssetExecutionContext, tables: TablesResource, outputs: OutputsResource, files: FilesResource
    ) -> dg.MaterializeResult[Any]:
        store = tables.open()
        evaluated = report_steps.latest_checks(context.instance, checks)
        facts = report_steps.report_facts(spec, store, outputs.open(), checks=evaluated)
        return report_steps.report(spec, dataset, facts, files)

    return report
