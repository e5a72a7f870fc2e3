"""SQL over all tables: every table is seen with its dataset, experiment and trial, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from platform_assets.stores.analytics import Analytics, BadQuery, UnknownName
from platform_assets.stores.read_only_sql import NotASelect
from platform_assets.stores.run_table import RunTable
from platform_assets.stores.tables import Tables

RECORDS = ("elpv", "records")
PREDICTIONS = ("elpv", "binary", "predictions")


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tab'les [x]*")  # characters that globs, SQL and patterns read otherwise


@pytest.fixture
def analytics(tables: Tables, tmp_path: Path) -> Analytics:
    return Analytics(tables.root, RunTable(f"sqlite:///{tmp_path / 'none.db'}", tmp_path / "cache"))


def ask(analytics: Analytics, query: str) -> list[tuple[Any, ...]]:
    with analytics.answer(query) as relation:
        return relation.fetchall()


def predictions(*labels: str, **more: Any) -> pl.DataFrame:
    vectors = [[0.1, 0.9]] * len(labels)
    return pl.DataFrame({"prediction": labels, "logits": vectors, "probabilities": vectors, **more})


def test_answer__joins_tables_over_datasets_experiments_and_trials(tables: Tables, analytics: Analytics) -> None:
    for dataset, experiment, trial in (
        ("elpv", "binary", "a__s0"),
        ("elpv", "grades", "a__s0"),
        ("shop", "x", "b__s1"),
    ):
        tables.write((dataset, experiment, "predictions"), predictions("good"), trial)
    tables.write_version(RECORDS, "v1", pl.DataFrame({"label": ["old", "old"]}))
    tables.write_version(RECORDS, "v2", pl.DataFrame({"label": ["good"]}))
    tables.write(("shop", "records"), pl.DataFrame({"label": ["good"]}))
    found = ask(
        analytics,
        "SELECT dataset, experiment, trial, prediction, label FROM predictions p JOIN records r USING (dataset) "
        "WHERE p.prediction = r.label ORDER BY ALL",
    )
    assert found == [
        ("elpv", "binary", "a__s0", "good", "good"),
        ("elpv", "grades", "a__s0", "good", "good"),
        ("shop", "x", "b__s1", "good", "good"),
    ]


def test_answer__a_column_that_an_older_table_lacks_is_null_there(tables: Tables, analytics: Analytics) -> None:
    tables.write(PREDICTIONS, predictions("good"), "a__s0")
    tables.write(PREDICTIONS, predictions("bad", note=["x"]), "a__s1")
    found = ask(analytics, "SELECT trial, prediction, note FROM predictions ORDER BY trial")
    assert found == [("a__s0", "good", None), ("a__s1", "bad", "x")]


def test_answer__the_name_of_the_place_wins_over_a_column_of_that_name(tables: Tables, analytics: Analytics) -> None:
    tables.write(("elpv", "binary", "metrics"), pl.DataFrame({"trial": ["renamed"], "top1": [0.5]}), "a__s0")
    assert ask(analytics, "SELECT * FROM metrics") == [("elpv", "binary", "a__s0", 0.5)]


def test_views__predictions_have_their_vectors_in_a_view_of_their_own(tables: Tables, analytics: Analytics) -> None:
    tables.write(PREDICTIONS, predictions("good"), "a__s0")
    assert [name for name, _ in analytics.columns("predictions")] == ["dataset", "experiment", "trial", "prediction"]
    assert ask(analytics, "SELECT logits[2], probabilities[1] FROM logits") == [(0.9, 0.1)]


def test_views__are_one_an_asset_at_any_depth(tables: Tables, analytics: Analytics) -> None:
    tables.write_version(RECORDS, "v1", pl.DataFrame({"label": ["good"]}))
    tables.write(("elpv", "binary", "leaderboard"), pl.DataFrame({"rank": [1]}))
    tables.write(("elpv", "binary", "tuning_rate", "best"), pl.DataFrame({"value": [0.5]}))
    assert analytics.names == ["leaderboard", "records", "runs", "tuning_rate__best"]
    assert ask(analytics, "SELECT * FROM tuning_rate__best") == [("elpv", "binary", 0.5)]
    assert ask(analytics, "SELECT * FROM Leaderboard") == [("elpv", "binary", 1)]


def test_answer__nothing_is_there_yet(analytics: Analytics) -> None:
    assert ask(analytics, "SELECT count(*) FROM runs") == [(0,)]
    assert ask(analytics, "SELECT 1") == [(1,)]


def test_answer__describe_and_with_are_queries_too(tables: Tables, analytics: Analytics) -> None:
    tables.write(RECORDS, pl.DataFrame({"label": ["good"]}))
    assert [row[0] for row in ask(analytics, "DESCRIBE records")] == ["dataset", "label"]
    assert ask(analytics, "WITH r AS (FROM records) SELECT count(*) FROM r") == [(1,)]


@pytest.mark.parametrize(
    "source",
    ["read_csv('{outside}')", "'{outside}'", "glob('{outside}*')", "read_text('{root}/../outside.csv')", "frame"],
)
def test_answer__files_and_variables_outside_are_out_of_reach(
    tables: Tables, analytics: Analytics, tmp_path: Path, source: str
) -> None:
    frame = pl.DataFrame({"a": [1]})  # DuckDB would find it by its name
    outside = tmp_path / "outside.csv"
    frame.write_csv(outside)
    tables.write(RECORDS, frame)
    root = tables.root.as_posix().replace("'", "''")
    with pytest.raises((BadQuery, UnknownName)):
        ask(analytics, f"SELECT * FROM {source.format(outside=outside, root=root)}")


@pytest.mark.parametrize(
    "query",
    [
        "COPY records TO 'elpv/x.parquet'",
        "SET threads = 1",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "LOAD sqlite",
        "ATTACH 'x.db'",
        "CREATE TABLE x AS SELECT 1",
        "SELECT 1; SELECT 2",
        "",
    ],
)
def test_answer__only_one_select_is_run(tables: Tables, analytics: Analytics, query: str) -> None:
    tables.write(RECORDS, pl.DataFrame({"label": ["good"]}))
    with pytest.raises(NotASelect, match="not one SELECT"):
        ask(analytics, query)


def test_answer__an_unknown_view_is_named_with_those_there_are(tables: Tables, analytics: Analytics) -> None:
    tables.write(RECORDS, pl.DataFrame({"label": ["good"]}))
    with pytest.raises(UnknownName, match=r"metrics.*the views are records, runs"):
        ask(analytics, "SELECT * FROM metrics")


def test_answer__an_unknown_column_is_named_with_those_there_are(tables: Tables, analytics: Analytics) -> None:
    tables.write(RECORDS, pl.DataFrame({"label": ["good"], "width": [3]}))
    with pytest.raises(UnknownName, match=r'"lable".*; records has dataset, label, width'):
        ask(analytics, "SELECT lable FROM records")


def test_answer__what_is_no_sql_is_said_without_a_traceback(analytics: Analytics) -> None:
    with pytest.raises(BadQuery, match="syntax error"):
        ask(analytics, "SELEKT 1")


def test_answer__an_error_while_rows_are_read_is_ours_too(tables: Tables, analytics: Analytics) -> None:
    tables.write(RECORDS, pl.DataFrame({"label": ["good"]}))
    with pytest.raises(BadQuery, match="Could not convert"):
        ask(analytics, "SELECT label::INTEGER FROM records")
