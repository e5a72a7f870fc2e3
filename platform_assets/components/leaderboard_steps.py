"""The body of the leaderboard asset and the check over all its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.specs import data_version
from platform_assets.resources import OutputsResource, TablesResource

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.stores.tables import Tables

LEADERBOARD = (
    "All variants side by side, ranked on val and reported on test: mean, spread, interval and each value of the seeds, "
    "difference to the baseline with a paired test (Holm-corrected), parameters and seconds. Trials that cannot be compared "
    "are refused."
)

DECISIONS = ("image_id", "path", "part", "group", "truth", "truth_index", "prediction_index")


class _Decisions(Mapping[str, "pl.DataFrame"]):
    """What each trial decided, read when asked: the logits of hundreds of trials would fill the memory."""

    def __init__(self, spec: ExperimentSpec, tables: Tables) -> None:
        self._spec, self._tables = spec, tables

    def __getitem__(self, trial: str) -> pl.DataFrame:
        return self._tables.read([*self._spec.key, "predictions"], trial, columns=DECISIONS)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spec.trials)

    def __len__(self) -> int:
        return len(self._spec.trials)


def metrics_rows(spec: ExperimentSpec, tables: Tables, trials: Iterable[str] | None = None) -> pl.DataFrame:
    """The metrics of some trials, or of every one of the YAML file.

    Raises MissingTable, naming the command, for one that was not run.
    """
    import polars as pl

    found = [tables.read([*spec.key, "metrics"], trial) for trial in (spec.trials if trials is None else trials)]
    # Older code may have written some of them; the leaderboard says which.
    return pl.concat(found, how="diagonal_relaxed")


def folder_urls(spec: ExperimentSpec, tables: Tables, trials: Iterable[str]) -> dict[str, str]:
    """Where the files of trials lie. Raises MissingTable as metrics_rows."""
    return {trial: tables.read([*spec.key, "checkpoint"], trial)["folder_url"][0] for trial in trials}


def leaderboard(spec: ExperimentSpec, tables: Tables) -> dg.MaterializeResult[Any]:
    from platform_assets.vision.evaluation.leaderboards import AXES
    from platform_assets.vision.evaluation.leaderboards import leaderboard as compare
    from platform_assets.vision.views.plots import leaderboard_bars

    rows = metrics_rows(spec, tables)
    board = compare(rows, _Decisions(spec, tables), baseline=spec.baseline, metric=spec.metric)
    board = with_published(board, spec)
    tables.write([*spec.key, "leaderboard"], board)
    return dg.MaterializeResult(
        data_version=data_version(*rows["checkpoint_id"], *rows["comparability"]),
        metadata={
            "dagster/row_count": board.height,
            "leaderboard": show.table(_short(board)),
            "conclusion": dg.MetadataValue.md(conclusion(board, spec)),
            "axes": show.table(
                board.select("variant", *AXES, "seeds", "test_top1_mean", "published_top1", "published_source")
            ),
            "bars": show.picture(leaderboard_bars(board)),
            "trials": show.table(
                rows.select(
                    "trial",
                    f"val_{spec.metric}",
                    "test_top1",
                    "test_macro_f1",
                    "spectral_alpha",
                    "checkpoint_id",
                    "comparability",
                )
            ),
            "all_columns": show.table(board),
        },
    )


def with_published(board: pl.DataFrame, spec: ExperimentSpec) -> pl.DataFrame:
    """The board with what the YAML file says that others report, null where it says nothing."""
    import polars as pl

    said = {name: variant.published for name, variant in spec.variants.items() if variant.published}
    names = pl.col("variant")
    return board.with_columns(
        published_top1=names.replace_strict(
            {n: p.top1 for n, p in said.items()}, default=None, return_dtype=pl.Float64
        ),
        published_source=names.replace_strict(
            {n: p.source for n, p in said.items()}, default=None, return_dtype=pl.String
        ),
    )


def _short(board: pl.DataFrame) -> pl.DataFrame:
    """What fits on a screen: the figures that decide, spread and interval as text."""
    import polars as pl

    return board.select(
        "rank",
        "variant",
        "seeds",
        "val_mean",
        "test_mean",
        interval=pl.format("{} to {}", pl.col("test_low").round(3), pl.col("test_high").round(3)),
        std=pl.col("test_std"),
        each=pl.col("test_values").list.eval(pl.element().round(4).cast(pl.String)).list.join(", "),
        difference=pl.col("difference"),
        p=pl.col("p_holm"),
        top1=pl.col("test_top1_mean"),
    )


def conclusion(board: pl.DataFrame, spec: ExperimentSpec) -> str:
    """Each variant against the baseline in words; a difference in top-1 that chance explains is called none.

    The test is of top-1 whatever the metric is, whose difference stands beside it with its own interval.
    """
    lines = []
    seeds = {name: {seed for other, seed in spec.trials.values() if other == name} for name in spec.variants}
    for row in board.to_dicts():
        if row["variant"] == spec.baseline:
            continue
        shared = len(seeds[row["variant"]] & seeds[spec.baseline])
        certain = row["p_holm"] is not None and row["p_holm"] < 0.05
        said = "differs from" if certain else "shows no significant difference to"
        lines.append(
            f"- `{row['variant']}` {said} `{spec.baseline}` in top-1 (paired test, Holm-corrected p = {row['p_holm']:.3g}, "
            f"on {shared} shared seed(s)); {spec.metric} {row['difference']:+.4f} ({row['difference_low']:+.4f} to "
            f"{row['difference_high']:+.4f})"
        )
    lines += [
        f"- `{backbone}` is finetuned without a linear probe beside it since {waiver.date}: {waiver.reason}"
        for backbone, waiver in spec.without_probe.items()
    ]
    return "\n".join(lines) or f"`{spec.baseline}` stands alone."


def manifest_check(spec: ExperimentSpec) -> dg.AssetChecksDefinition:
    """Reads every byte of every trial's folder, whenever the check runs."""

    @dg.asset_check(
        name="every_checkpoint_matches_its_manifest",
        asset=[*spec.key, "leaderboard"],
        description="Every file of every trial has the SHA-256 that its MANIFEST.json gives it.",
        blocking=True,
    )
    def every_checkpoint_matches_its_manifest(tables: TablesResource, outputs: OutputsResource) -> dg.AssetCheckResult:
        table, folders = tables.open(), outputs.open()
        urls = folder_urls(spec, table, spec.trials).values()
        problems = [problem for url in urls for problem in folders.at(url).verify()]
        return dg.AssetCheckResult(
            passed=not problems,
            description="; ".join(problems[:3]) or None,
            metadata={"folders": len(urls), "problems": len(problems), "threshold": 0},
        )

    return every_checkpoint_matches_its_manifest
