"""The checks on checkpoint and metrics: over the trials of a run, or over all there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from platform_assets.components.desk import Desk
    from platform_assets.components.experiment_spec import ExperimentSpec


def checks(spec: ExperimentSpec) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(
            "checkpoint_matches_its_manifest",
            asset=[*spec.key, "checkpoint"],
            description="Every file of the trial has the SHA-256 that MANIFEST.json gives it.",
            blocking=True,
        ),
        dg.AssetCheckSpec(
            "metrics_beat_the_majority_class",
            asset=[*spec.key, "metrics"],
            description="Top-1 on test is above what always naming the most frequent class would give.",
        ),
    ]


def _manifest_result(desk: Desk, partitions: list[str]) -> dg.AssetCheckResult:
    problems = [problem for partition in partitions for problem in desk.folder(partition).verify()]
    return dg.AssetCheckResult(
        check_name="checkpoint_matches_its_manifest",
        asset_key=desk.key("checkpoint"),
        passed=not problems,
        description="; ".join(problems[:3]) or None,
        metadata={"problems": len(problems), "threshold": 0},
    )


def _majority_result(desk: Desk, partitions: list[str]) -> dg.AssetCheckResult:
    """The worst trial of this run against the share of its most frequent class."""
    import polars as pl

    margins: dict[str, float] = {}
    for partition in partitions:
        test = desk.tables.read(desk.key("predictions"), partition).filter(pl.col("part") == "test")
        majority = max(count for _, count in test["truth"].value_counts().rows())
        margins[partition] = (test["correct"].sum() - majority) / test.height
    worst = min(margins, key=lambda partition: margins[partition])
    return dg.AssetCheckResult(
        check_name="metrics_beat_the_majority_class",
        asset_key=desk.key("metrics"),
        passed=margins[worst] > 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"smallest margin: {worst}",
        metadata={"top1_above_majority": margins[worst], "threshold": 0.0},
    )


CHECKS = {
    "checkpoint": {"checkpoint_matches_its_manifest": _manifest_result},
    "metrics": {"metrics_beat_the_majority_class": _majority_result},
}
