"""What moves the graph by itself: a sensor a dataset, a job and a schedule an experiment. All ship stopped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.vision_dataset import VisionDatasetSpec

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def new_dataset_version(spec: VisionDatasetSpec) -> dg.SensorDefinition:
    """Asks for the source asset when its files changed; the assets behind it follow by their automation condition."""

    @dg.sensor(
        name=f"{spec.name}_new_dataset_version",
        asset_selection=dg.AssetSelection.assets([spec.name, "source"]),
        minimum_interval_seconds=60,
        required_resource_keys={"tables", "files"},
        description=f"Watches the files of {spec.name}; a changed, added or removed file asks for its source asset.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        from platform_assets.components.source_steps import hashed, version_now

        tables, files, key = context.resources.tables.open(), context.resources.files, [spec.name, "source_version"]
        known = tables.read(key)["version"].item() if tables.exists(key) else None
        root = None if files.stated_version(spec.source) else files.source_root(spec.source)
        hashes = hashed(spec, tables, root) if root else None
        version = version_now(spec, files, hashes)
        if version == known:
            seen = "what the source states" if hashes is None else f"{hashes.height:,} files at {root}"
            yield dg.SkipReason(f"{spec.name}: {seen}, still version {version}")
        else:
            yield dg.RunRequest(run_key=f"{spec.name}:{version}", tags={"kestrel/source_version": version})

    return sensor


def selection(spec: ExperimentSpec) -> dg.AssetSelection:
    return dg.AssetSelection.groups(spec.group)


def retrain_job(spec: ExperimentSpec) -> dg.UnresolvedAssetJobDefinition:
    """Everything of an experiment: trials that nothing changed for are found on disk and not trained again."""
    return dg.define_asset_job(
        f"retrain_{spec.group}",
        selection=selection(spec),
        description=f"Every trial of {'/'.join(spec.key)}, then leaderboard, champion, exports and model card.",
    )


def partition_range(spec: ExperimentSpec) -> dict[str, str]:
    """Run tags that ask for all trials in one run, as `--partition-range` does."""
    trials = list(spec.trials)
    return {RANGE_START: trials[0], RANGE_END: trials[-1]}


def weekly_retrain(spec: ExperimentSpec) -> list[dg.ScheduleDefinition]:
    """The retrain schedule, if the experiment asks for one."""
    if spec.retrain is None:
        return []

    @dg.schedule(
        name=f"{spec.group}_weekly_retrain",
        cron_schedule=spec.retrain,
        job_name=f"retrain_{spec.group}",
        description=f"Asks for every trial of {'/'.join(spec.key)} in one run; unchanged ones are taken as they are.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(tags=partition_range(spec))

    return [schedule]
