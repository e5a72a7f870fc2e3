"""The kestrel command as a newcomer types it: a new project to a trained trial, and what its errors say."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from platform_assets.cli import experiment_named, main
from platform_tests.components.projects import give_database, write_images
from platform_tests.processes import done, edit

CNN = {"backbone": "baseline_cnn", "mode": "scratch", "train": {"epochs": 1, "warmup_epochs": 0}}


def _said(*arguments: str, code: int) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project in a folder whose name is no Python name, as `kestrel init` writes it."""
    folder = tmp_path_factory.mktemp("cli")
    images = write_images(folder / "images", per_class=12)
    said = _said("init", str(folder / "My birds"), "--images", str(images), code=0)
    assert f"{folder / 'My birds'}/my_birds/defs/photos/defs.yaml\n" in said
    assert "kestrel materialize photos/first" in said
    return folder / "My birds"


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    return project


def test_help__names_every_verb_and_what_it_takes() -> None:
    said = _said("--help", code=0)
    assert "one Dagster asset graph" in said
    for verb, takes in (
        ("init", "--images DIRECTORY"),
        ("materialize", "--trial TEXT"),
        ("demo", "solar-cell"),
        ("results", "EXPERIMENT"),
        ("results", "--write FILE"),
        ("sql", "--question TEXT"),
        ("replay", "--evaluate-only"),
        ("stamp", "show"),
        ("lr-find", "--steps INTEGER"),
        ("doctor", "why"),
        ("backbones", "weights"),
        ("promote", "--approve NAME"),
        ("rollback", "at once"),
        ("history", "--record TEXT"),
    ):
        assert f"\n  {verb} " in said
        assert takes in _said(verb, "-h", code=0)


def test_init__writes_into_no_project_that_is_there(project: Path) -> None:
    said = _said("init", str(project), code=1)
    assert "dagster.yaml" in said
    assert "exist already; choose an empty folder" in said


def test_init__without_images_makes_a_place_for_them(tmp_path: Path) -> None:
    _said("init", str(tmp_path / "new"), "--name", "2 much", code=0)
    assert (tmp_path / "new/images").is_dir()
    assert (tmp_path / "new/project_2_much/definitions.py").is_file()
    assert "path: images" in (tmp_path / "new/project_2_much/defs/photos/defs.yaml").read_text()


def test_materialize__an_unknown_experiment_or_trial_is_named_with_the_known(inside: Path) -> None:
    said = _said("materialize", "photos/frist", code=2)
    assert "photos/frist: no such experiment here; defined are photos/first" in said
    said = _said("materialize", "photos/first", "--trial", "cnn__s9", code=2)
    assert "--trial cnn__s9: not a trial of photos/first; it has cnn__s0, cnn__s1" in said
    said = _said("materialize", "photos", "--trial", "cnn__s0", code=2)
    assert "name it, as in photos/EXPERIMENT" in said


def test_lr_find__says_what_is_not_here_without_a_traceback(inside: Path) -> None:
    trial = next(iter(experiment_named("photos/first").trials))
    said = _said("lr-find", "photos/first", trial, code=1)
    assert said.startswith("Error: ")
    assert "records" in said
    assert "0 is not in the range x>=2" in _said("lr-find", "photos/first", trial, "--steps", "0", code=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("materialize", "photos"),
        ("materialize", "photos/first", "--trial", "cnn__s0"),
        ("demo",),
        ("results", "photos/first"),
        ("results", "photos/first", "--write", "page.md"),
        ("report", "photos/first", "--format", "md"),
        ("promote", "photos/first"),
        ("rollback", "photos/first"),
        ("history", "photos/first"),
        ("lr-find", "photos/first", "cnn__s0"),
        ("data", "show", "photos"),
    ],
)
def test_broken_yaml__is_a_message_for_every_verb(
    inside: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything but `kestrel data` ended in a traceback, and so did `materialize` of a dataset, which is dagster's."""
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("dagster was started"))
    kind = "VisionDataset" if "photos" in arguments else "Experiment"
    broken = inside / "my_birds/defs/broken/defs.yaml"
    for text in ("type: [\n", f"type: platform_assets.components.{kind}\nattributes: {{names: x}}\n"):
        broken.parent.mkdir()
        broken.write_text(text)
        try:
            said = _said(*arguments, code=1)
        finally:
            shutil.rmtree(broken.parent)
        assert "broken/defs.yaml" in said
        assert said.startswith("Error: ")
        assert "Traceback" not in said


@pytest.mark.parametrize("command", [["materialize", "photos"], ["materialize", "photos/first"], ["results", "a/b"]])
def test_outside_of_a_project__every_verb_says_where_to_go(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = _said(*command, code=2)
    assert f"{tmp_path}: no pyproject.toml with [tool.dagster] module_name" in said
    assert "kestrel init DIR" in said


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_new_project__is_trained_by_the_commands_that_init_names(project: Path, mlflow_database: Path) -> None:
    """`kestrel materialize photos/first` found no experiment: the script's path has no working directory on it."""
    edit(project, "photos_first", image_size_px=32, variants={"cnn": CNN})
    give_database(project, mlflow_database)
    assert "photos: 36 images taken in, 0 rejected" in done(project, "kestrel", "materialize", "photos")
    said = done(project, "kestrel", "materialize", "photos/first", "--trial", "cnn__s0")
    assert "cnn__s0: test top-1" in said
    tables = project / "data/tables/photos/first"
    checkpoint = pl.read_parquet(tables / "checkpoint/cnn__s0.parquet").row(0, named=True)
    assert Path(checkpoint["folder_url"], "MANIFEST.json").is_file()
    assert checkpoint["folder_url"].startswith(str(project / "data/outputs"))
    assert {path.parent.name for path in tables.rglob("*.parquet")} == {
        "checkpoint",
        "predictions",
        "metrics",
        "slices",
    }
    assert "nothing changed, checkpoint" in done(
        project, "kestrel", "materialize", "photos/first", "--trial", "cnn__s0"
    )
    found = done(project, "kestrel", "lr-find", "photos/first", "cnn__s0", "--steps", "40")
    assert "suggested: learning_rate: " in found
    student = {**CNN, "train": {**CNN["train"], "distill_from": checkpoint["folder_url"]}}
    edit(project, "photos_first", variants={"cnn": CNN, "student": student})
    assert "suggested: " in done(project, "kestrel", "lr-find", "photos/first", "student__s0", "--steps", "40")
    assert {path.name for path in project.iterdir() if path.suffix != ".log"} == {
        *(".env", ".gitignore", "README.md", "dagster.yaml", "data", "my_birds", "pyproject.toml", "workspace.yaml"),
    }
