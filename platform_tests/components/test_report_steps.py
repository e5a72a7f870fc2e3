"""What is left of trials to look at, and the report over them: through the graph, and by the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import polars as pl
import pytest
from click.testing import CliRunner

from platform_assets.cli import main
from platform_assets.components.champion_steps import ChampionRow
from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.project_specs import experiments
from platform_assets.components.report_steps import gate_outcomes
from platform_assets.stores.outputs import OutputFolder, Outputs
from platform_assets.stores.tables import Tables
from platform_assets.vision.views.tensorboard_views import CONFIG
from platform_tests.components.projects import Project, experiment_yaml, lasting_project, metadata, write_images
from platform_tests.vision.cards.pages import Elements, require_accessible, require_alone

KEYS = ("embeddings", "checkpoint", "predictions", "metrics", "leaderboard", "champion", "report")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    """A project with one seed of a network and of a probe, made as far as the report: half the time of all of it."""
    folder = tmp_path_factory.mktemp("reported")
    with lasting_project(folder, write_images(folder / "images"), mlflow_database) as made:
        made.write("first", experiment_yaml(seeds=[0]))
        made.materialize("group:photos")
        selection = " or ".join(f'key:"photos/first/{name}"' for name in KEYS)
        made.materialize(selection, partitions=("cnn__s0", "probe__s0"))
        yield made


def _tables(made: Project) -> Tables:
    return Tables(made.data / "tables")


def _folder(made: Project, trial: str) -> OutputFolder:
    url = _tables(made).read(["photos", "first", "checkpoint"], trial)["folder_url"][0]
    return Outputs(str(made.data / "outputs"), scratch=made.data / "cache/outputs").at(url)


def _samples(folder: OutputFolder) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(folder.path("fiftyone/samples.json").read_bytes())["samples"]
    return found


def _said(made: Project, monkeypatch: pytest.MonkeyPatch, *arguments: str, code: int = 0) -> str:
    monkeypatch.chdir(made.folder)
    result = CliRunner().invoke(main, ["report", *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("trial", ["cnn__s0", "probe__s0"])
def test_views__of_every_trial(reported: Project, trial: str) -> None:
    folder, rows = _folder(reported, trial), _tables(reported).read(["photos", "first", "predictions"], trial)
    files = folder.manifest().files.keys()
    lines = [json.loads(line) for line in folder.path("predictions.jsonl").read_text().splitlines()]
    assert len(lines) == rows.height
    assert {(line["image_id"], line["prediction"]) for line in lines} == set(rows["image_id", "prediction"].rows())
    has_mistakes = rows.filter(pl.col("part") == "test", ~pl.col("correct")).height > 0
    assert ("views/saliency.jpg" in files) == has_mistakes
    assert "views/embedding_map.png" in files
    assert f"tb/evaluation/{CONFIG}" in files
    assert all("embedding" in sample for sample in _samples(folder))
    assert folder.verify() == []


def test_views__of_the_same_predictions_are_taken_as_they_are(reported: Project) -> None:
    def times() -> dict[str, int]:
        folder = _folder(reported, "probe__s0")
        names = [name for name in folder.manifest().files if name.startswith(("views/", "fiftyone/"))]
        return {name: folder.path(name).stat().st_mtime_ns for name in names}

    def again() -> dict[str, Any]:
        result = reported.materialize('key:"photos/first/predictions"', partitions=("probe__s0", "probe__s0"))
        return metadata(result, "photos/first/predictions", "probe__s0")

    before = times()
    shown = again()
    assert times() == before
    assert shown["embedding_map"].startswith("![picture](data:image/png;base64,")
    made_from = _folder(reported, "probe__s0").path("views/made_from.json")
    _folder(reported, "probe__s0").add("views/made_from.json", made_from.read_bytes().replace(b'"code"', b'"cod"'))
    again()
    assert all(time > before[name] for name, time in times().items())


def test_report__is_a_page_of_the_experiment_as_it_is(reported: Project) -> None:
    said = metadata(reported.materialize('key:"photos/first/report"'), "photos/first/report")
    page = Path(said["page"]).read_text(encoding="utf-8")
    assert said["page"] == str(reported.data / "cards/photos/first/report.html")
    assert said["preview"].startswith("## photos/first: ")
    assert said["trials"] == 2
    require_alone(page)
    require_accessible(page)
    text = Elements(page).text
    rows = [_tables(reported).read(["photos", "first", "metrics"], t) for t in ("cnn__s0", "probe__s0")]
    for row in pl.concat(rows, how="vertical_relaxed").to_dicts():
        assert f"{row['trial']} {row['val_macro_f1']:.4f} {row['test_macro_f1']:.4f}" in text
        assert row["checkpoint_id"] in text
    champion = _tables(reported).read(["photos", "first", "champion"]).row(0, named=True)
    assert f"In service: {champion['model']} version {champion['version']}" in text
    assert "champion.champion_passes_its_gate yes" in text
    assert "checkpoint.checkpoint_matches_its_manifest yes" in text
    assert "exports.export_matches_its_checkpoint not evaluated" in text
    assert "kestrel materialize photos/first" in text
    assert len(Elements(page).named("polyline")) == 2


def test_report_command__markdown_page_and_test_cases(
    reported: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert _said(reported, monkeypatch, "photos/first").startswith("## photos/first: ")
    html, xml = tmp_path / "new/report.html", tmp_path / "report.xml"
    assert f"{html}: " in _said(reported, monkeypatch, "photos/first", "--format", "html", "--output", str(html))
    require_alone(html.read_text())
    _said(reported, monkeypatch, "photos/first", "--format", "junit", "--output", str(xml))
    root = ET.parse(xml).getroot()
    names = [case.attrib["name"] for case in root.findall("testsuite[@name='trials']/testcase")]
    assert names == ["cnn__s0", "probe__s0"]
    checks = [case.attrib["name"] for case in root.findall("testsuite[@name='checks']/testcase")]
    assert "exports.export_matches_its_checkpoint" in checks
    rules = [case.attrib["name"] for case in root.findall("testsuite[@name='gate']/testcase")]
    assert rules[0] == "verdict"
    assert {"files_match_manifest", "evaluation_is_current", "licence_is_stated", "minimum"} <= set(rules)
    assert root.attrib["failures"] == "0"


def test_gate_outcomes__of_a_champion_that_older_code_judged_are_its_verdict(reported: Project) -> None:
    """Its row has no record of the gate, and the report ended with an error."""
    tables, key = _tables(reported), ["photos", "first", "champion"]
    spec = next(spec for spec in experiments(reported.folder) if spec.name == "first")
    row = tables.read(key)
    assert len(gate_outcomes(spec, tables)) > 1
    tables.write(key, row.drop("gate_record"))
    try:
        assert [(outcome.name, outcome.passed) for outcome in gate_outcomes(spec, tables)] == [("verdict", True)]
    finally:
        tables.write(key, row)


def test_gate_outcomes__a_candidate_that_serves_already_is_no_failure(tmp_path: Path) -> None:
    """Every run with nothing changed failed a test case in CI."""
    spec = ExperimentSpec.model_validate(experiment_yaml()["attributes"])
    tables, key = Tables(tmp_path), ["photos", "first"]
    said = {"measured": 1.0, "threshold": 0.0, "otherwise": "kept", "passed": False}
    rules = [
        {"rule": "is_not_the_incumbent", "said": "the incumbent is this very checkpoint", **said},
        {"rule": "max_regression", "said": "a loss is not ruled out", **said},
    ]
    tables.write([*key, "gate_records"], pl.DataFrame({"rules": [rules]}), "a-record")
    texts = dict.fromkeys(ChampionRow.model_fields, "x") | {"version": 1, "verdict": "kept", "gate_record": "a-record"}
    tables.write([*key, "champion"], pl.DataFrame([texts]))
    found = {outcome.name: outcome.passed for outcome in gate_outcomes(spec, tables)}
    assert found == {"verdict": True, "is_not_the_incumbent": None, "max_regression": False}


def test_report_command__refuses_a_leaderboard_of_other_trials(
    reported: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ["photos", "first", "leaderboard"]
    board = _tables(reported).read(key)
    changed = pl.when(pl.col("variant") == "cnn").then(pl.col("val_mean") + 0.01).otherwise(pl.col("val_mean"))
    _tables(reported).write(key, board.with_columns(val_mean=changed))
    try:
        said = _said(reported, monkeypatch, "photos/first", code=1)
        assert "photos/first/leaderboard is of other trials of cnn than there are now" in said
    finally:
        _tables(reported).write(key, board)


def test_report_command__a_trial_that_was_not_made_is_a_failure(
    photos: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos.load()
    said = _said(photos, monkeypatch, "photos/first", code=1)
    assert "photos/first/leaderboard: no table at" in said
    assert "or all of the experiment with: kestrel materialize photos/first" in said
    root = ET.fromstring(_said(photos, monkeypatch, "photos/first", "--format", "junit").encode())
    assert (root.attrib["failures"], root.attrib["skipped"]) != ("0", "0")
    case = root.find("testsuite/testcase[@name='cnn__s0']/failure")
    assert case is not None
    assert "kestrel materialize photos/first --trial cnn__s0" in case.attrib["message"]
    said = _said(photos, monkeypatch, "photos/frist", code=2)
    assert "photos/frist: no such experiment here; defined are photos/first" in said


def test_report_command__help_shows_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", "--help"])
    for said in ("html|md|junit", "kestrel report elpv/probes --format junit --output report.xml", "default: md"):
        assert said in result.output
