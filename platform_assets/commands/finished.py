"""What a finished experiment has to show in a terminal: leaderboard, champion, and where the files lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from platform_assets.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.experiment_spec import ExperimentSpec


def print_results(spec: ExperimentSpec) -> None:
    """The leaderboard with its conclusion, the champion, and the paths of card and export."""
    from platform_assets.components.champion_steps import read_champion
    from platform_assets.components.delivery_steps import ONNX
    from platform_assets.components.leaderboard_steps import conclusion
    from platform_assets.resources import resources
    from platform_assets.stores.tables import Tables

    settings = Settings()
    tables = Tables(settings.tables_dir)
    board = tables.read([*spec.key, "leaderboard"])
    row = read_champion(spec, tables)
    files = resources(settings)["files"]
    click.echo(f"\n{'/'.join(spec.key)}, ranked by {spec.metric} on val, reported on test\n")
    click.echo(_table(board, spec.metric))
    click.echo(f"\n{conclusion(board, spec)}\n")
    click.echo(
        f"champion    {row.model} version {row.version}, checkpoint {row.checkpoint_id} ({row.verdict}: {row.reason})"
    )
    click.echo(f"export      {row.folder_url}/{ONNX}")
    click.echo(f"model card  {files.card(*spec.key, 'model_card')}")
    click.echo(f"report      {files.card(*spec.key, 'report', suffix='.html')}")
    click.echo("look at it  make dev  (Dagster UI)   or   mlflow ui --backend-store-uri " + settings.mlflow_uri)


def _table(board: pl.DataFrame, metric: str) -> str:
    import polars as pl

    shown = board.select(
        "variant",
        "seeds",
        pl.col("val_mean").round(4).alias(f"val {metric}"),
        pl.col("test_mean").round(4).alias(f"test {metric}"),
        pl.format("{} to {}", pl.col("test_low").round(3), pl.col("test_high").round(3)).alias("95 %"),
        pl.col("test_top1_mean").round(4).alias("test top-1"),
        pl.col("train_seconds").round(1).alias("fit s"),
    )
    with pl.Config(tbl_rows=100, tbl_cols=20, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        return str(shown)
