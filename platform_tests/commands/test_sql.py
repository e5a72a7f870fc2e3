"""`kestrel sql` as it is typed: columns, CSV, JSON and Parquet of the same rows, and what its errors say."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from platform_assets.cli import main
from platform_assets.stores.questions import QUESTIONS
from platform_assets.stores.tables import Tables

ROWS = 100


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KESTREL_ROOT", str(tmp_path))
    frame = pl.DataFrame(
        {
            "path": [f"{number},\n.png" for number in range(ROWS)],
            "confidence": [number / ROWS for number in range(ROWS)],
            "correct": [number % 2 == 0 for number in range(ROWS)],
            "logits": [[0.5, None]] * ROWS,
        }
    )
    Tables(tmp_path / "data/tables").write(("elpv", "binary", "predictions"), frame, "a__s0")


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["sql", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_sql__columns_are_aligned_and_say_that_there_is_more() -> None:
    lines = said("select trial, confidence from predictions order by confidence").splitlines()
    assert lines[:3] == ["trial  confidence", "a__s0  0", "a__s0  0.01"]
    assert lines[-1] == "... more than 40 rows; --limit shows more, --format csv all"
    assert said("select trial from predictions", "--limit", "2").splitlines() == ["trial", "a__s0", "a__s0"]


def test_sql__csv_has_every_row_and_its_lists_as_json() -> None:
    text = said("select path, confidence, logits from logits order by confidence", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == ROWS
    assert rows[7] == {"path": "7,\n.png", "confidence": "0.07", "logits": "[0.5, null]"}
    assert said("select path from predictions where confidence > 9", "--format", "csv") == "path\n"


def test_sql__json_is_one_array() -> None:
    found = json.loads(said("select path, correct, logits from logits order by confidence", "--format", "json"))
    assert len(found) == ROWS
    assert found[1] == {"path": "1,\n.png", "correct": False, "logits": [0.5, None]}
    assert json.loads(said("select path from predictions where confidence > 9", "--format", "json")) == []


def test_sql__parquet_goes_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    said("select * from logits order by confidence", "--format", "parquet", "--limit", "7", "--out", str(out))
    found = pl.read_parquet(out)
    assert found["confidence"].to_list() == [number / ROWS for number in range(7)]
    assert found["logits"][0].to_list() == [0.5, None]
    assert "--out is for" in said("select 1", "--out", str(out), code=2)


def test_sql__errors_name_what_is_unknown_and_what_there_is() -> None:
    assert "the views are logits, predictions, runs" in said("select * from predictoins", code=1)
    assert "predictions has dataset, experiment, trial, path" in said("select x from predictions", code=1)
    assert "not one SELECT" in said("drop view predictions", code=1)
    assert "--questions lists them" in said(code=2)
    assert "there are best, seed-spread, cost-per-point, regressions" in said("--question", "worst", code=2)


def test_sql__questions_and_views_are_listed() -> None:
    listed = said("--questions")
    for name, question in QUESTIONS.items():
        assert f"{name}: {question.text}\n\n{question.sql.strip()}" in listed
    views = said("--views")
    assert "predictions  dataset" in views
    assert "MAP(VARCHAR, DOUBLE)" in views


def test_sql__regressions_of_no_runs_are_none() -> None:
    assert said("--question", "regressions", "--format", "json") == "[]\n"
