"""`kestrel sql`: questions to all runs and tables, in a terminal."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, get_args

import click

from platform_assets.commands.columns import print_columns
from platform_assets.commands.row_formats import RowFormat
from platform_assets.settings import Settings

if TYPE_CHECKING:
    import duckdb

    from platform_assets.stores.analytics import Analytics

_SHOWN_ROWS = 40
_BATCH_ROWS = 65536


@click.command()
@click.argument("query", required=False)
@click.option("--question", help="A question that is shipped: best, seed-spread, cost-per-point, regressions.")
@click.option("--questions", "shown", flag_value="questions", help="The shipped questions with their SQL.")
@click.option("--views", "shown", flag_value="views", help="What can be asked: the views and their columns.")
@click.option("--format", "to", type=click.Choice(get_args(RowFormat)), default="columns", show_default=True)
@click.option("--limit", type=click.IntRange(0), help=f"Rows at most; {_SHOWN_ROWS} of columns unless given.")
@click.option("--out", type=click.File("wb"), help="File of csv, json or parquet, instead of the terminal.")
def sql(
    query: str | None,
    question: str | None,
    shown: str | None,
    to: RowFormat,
    limit: int | None,
    out: IO[bytes] | None,
) -> None:
    """Ask one SELECT of all runs, metrics, predictions and other tables, of all datasets and experiments.

    Only tables are read. Every table is a view with the columns dataset, experiment and trial; `runs` are the runs in
    MLflow, their params, metrics and tags as maps; `predictions` has its logits and probabilities in the view `logits`.

    \b
    kestrel sql --question best
    kestrel sql "select trial, test_top1 from metrics where dataset = 'elpv' order by test_top1 desc"
    kestrel sql "select trial, params['train.learning_rate'] from runs where status = 'FINISHED'"
    """
    from platform_assets.stores.analytics import BadQuery, UnknownName
    from platform_assets.stores.read_only_sql import NotASelect

    if shown == "questions":
        _print_questions()
        return
    analytics = opened()
    try:
        if shown == "views":
            _print_views(analytics)
        else:
            with analytics.answer(_asked(query, question)) as relation:
                _show(relation, to, limit, out)
    except (BadQuery, NotASelect, UnknownName) as error:
        raise click.ClickException(str(error)) from error


def opened() -> Analytics:
    """Over the tables and the MLflow of the project in the working directory."""
    from platform_assets.stores.analytics import Analytics
    from platform_assets.stores.run_table import RunTable

    settings = Settings()
    return Analytics(settings.tables_dir, RunTable(settings.mlflow_uri, settings.cache_dir / "sql"))


def _asked(query: str | None, question: str | None) -> str:
    from platform_assets.stores.questions import QUESTIONS

    if (query is None) == (question is None):
        raise click.UsageError("give one query, or --question NAME; --questions lists them, --views what can be asked")
    if query is not None:
        return query
    if question not in QUESTIONS:
        raise click.UsageError(f"--question {question}: no such question; there are {', '.join(QUESTIONS)}")
    return QUESTIONS[question].sql


def _show(relation: duckdb.DuckDBPyRelation, to: RowFormat, limit: int | None, out: IO[bytes] | None) -> None:
    from platform_assets.commands.row_formats import print_rows, write_csv, write_json, write_parquet

    if to == "columns":
        if out:
            raise click.UsageError("--out is for --format csv, json and parquet")
        most = _SHOWN_ROWS if limit is None else limit
        rows = relation.limit(most + 1).fetchall()
        print_rows(rows[:most], relation.columns)
        if len(rows) > most and limit is None:
            click.echo(f"... more than {most} rows; --limit shows more, --format csv all", err=True)
        return
    file = out or sys.stdout.buffer
    reader = (relation if limit is None else relation.limit(limit)).to_arrow_reader(_BATCH_ROWS)
    if to == "csv":
        write_csv(reader, reader.schema.names, file)
    elif to == "json":
        write_json(reader, file)
    else:
        if file.isatty():
            raise click.UsageError("parquet is not for a terminal; name a file with --out")
        write_parquet(reader, reader.schema, file)


def _print_questions() -> None:
    from platform_assets.stores.questions import QUESTIONS

    for name, question in QUESTIONS.items():
        click.echo(f"{name}: {question.text}\n\n{question.sql.strip()}\n")


def _print_views(analytics: Analytics) -> None:
    rows = [("view", "column", "type")]
    for view in analytics.names:
        rows += [(view if not at else "", *column) for at, column in enumerate(analytics.columns(view))]
    print_columns(rows)
