"""`kestrel promote`, `rollback` and `history` as they are typed, beside the graph that they share their records with."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from platform_assets.cli import main
from platform_assets.commands.registry import promote_command
from platform_assets.components.project_specs import experiments
from platform_assets.stores.runs import Runs
from platform_tests.components.projects import (
    CNN,
    RECORDS,
    TRIAL,
    Project,
    experiment_yaml,
    lasting_project,
    write_images,
)
from platform_tests.processes import done, instance_of

QUICK = {**CNN, "train": {**CNN["train"], "epochs": 1}}
GATE = {"max_regression": 1.0, "approval": {"approvers": ["Ada Lovelace"]}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Project]:
    """Two trials that nobody judged yet, in the instance that the project's own commands use."""
    folder = tmp_path_factory.mktemp("registry")
    images = write_images(folder / "images", per_class=12, side=24)
    with (
        lasting_project(folder, images, mlflow_database) as made,
        instance_of(made.folder) as instance,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(made.folder)
        made.instance = instance
        made.write("first", experiment_yaml(variants={"cnn": CNN, "quick": QUICK}, seeds=[0], gate=GATE))
        made.materialize(RECORDS)
        made.materialize(TRIAL, partitions=("cnn__s0", "quick__s0"))
        made.materialize('key:"photos/first/leaderboard"')
        yield made


@pytest.fixture
def inside(trained: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(trained.folder)
    return trained


def said(*arguments: str, code: int) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def judged(project: Project, **request: Any) -> None:
    """What `kestrel promote` runs, in this process, without export and card, which take longest."""
    (spec,) = experiments(project.folder)
    words = promote_command(spec, request)
    config = json.loads(words[words.index("--config-json") + 1])
    assert words[1:3] == ["asset", "materialize"]
    project.materialize(words[-1].split(" or ")[0], raises=False, run_config=config)


def serves(project: Project) -> str | None:
    champion = Runs(f"sqlite:///{project.data / 'mlflow/mlflow.db'}", artifact_root=None).champion("photos_first")
    return champion and champion.tags["trial"]


def checkpoint(project: Project, trial: str) -> str:
    import polars as pl

    table = project.data / f"tables/photos/first/checkpoint/{trial}.parquet"
    return str(pl.read_parquet(table)["checkpoint_id"].item())


def test_help__says_what_each_does_and_when_it_fails() -> None:
    assert "there is no way around the gate" in " ".join(said("promote", "--help", code=0).split())
    assert 'kestrel promote elpv/probes --approve "Ada Lovelace"' in said("promote", "--help", code=0)
    assert "It waits for no training." in said("rollback", "--help", code=0)
    assert "held         all that lacks is a person's approval" in said("history", "--help", code=0)


def test_story__held_approved_promoted_rolled_back_and_shown(inside: Project) -> None:
    assert "nothing was judged yet; `kestrel promote photos/first` does" in said("history", "photos/first", code=1)
    assert "no model is in service" in said("rollback", "photos/first", code=1)
    wanted = "--approve Bob: the gate of photos/first names Ada Lovelace"
    assert wanted in said("promote", "photos/first", "--approve", "Bob", code=2)
    ada = ("promote", "photos/first", "--approve", "Ada Lovelace")
    assert "photos/first: no candidate waits for approval; `kestrel promote" in said(*ada, code=2)

    approved = {"approved_by": ["Ada Lovelace"], "asked_by": "ada", "asked_with": "kestrel promote"}
    judged(inside, trial="quick__s0")
    assert serves(inside) is None
    assert "cnn__s0 does not wait for approval" in said(*ada, "--trial", "cnn__s0", code=2)
    judged(inside, trial="quick__s0", checkpoint_id=checkpoint(inside, "quick__s0"), **approved)
    assert serves(inside) == "quick__s0"
    assert "version 1 is the first that serves" in said("rollback", "photos/first", code=1)
    judged(inside, trial="cnn__s0", checkpoint_id=checkpoint(inside, "cnn__s0"), **approved)
    assert serves(inside) == "cnn__s0"

    told = said("rollback", "photos/first", code=0)
    assert told.startswith(f"rolled_back: quick__s0 {checkpoint(inside, 'quick__s0')} against cnn__s0")
    assert "version 2 was taken out of service, version 1 serves again" in told
    assert serves(inside) == "quick__s0"
    assert "champion    photos_first version 1" in said("results", "photos/first", code=0)
    event = inside.instance.get_latest_materialization_event(_key())
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["version"].value == 1

    lines = said("history", "photos/first", code=0).splitlines()
    assert lines[0].split()[:3] == ["at", "(UTC)", "verdict"]
    assert [line.split()[2] for line in lines[1:]] == ["rolled_back", "promoted", "promoted", "held"]
    assert "ada, kestrel promote" in lines[2]
    assert "Ada Lovelace" in lines[2]
    promoted = next(word for word in lines[2].split() if re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-\S+", word))
    rules = said("history", "photos/first", "--record", promoted, code=0)
    assert "\nfiles_match_manifest             yes     0" in rules
    assert "no such record" in said("history", "photos/first", "--record", "x", code=2)

    judged(inside, trial=None)
    latest = said("history", "photos/first", "-n", "1", code=0)
    assert "this checkpoint was rolled back" in latest
    assert "kestrel promote photos/first --trial cnn__s0" in latest
    assert serves(inside) == "quick__s0"


def _key() -> Any:
    import dagster as dg

    return dg.AssetKey(["photos", "first", "champion"])


def test_rollback__to_damaged_files_is_refused(inside: Project) -> None:
    (version,) = (inside.data / "outputs").rglob(f"{checkpoint(inside, 'cnn__s0')}/labelmap.json")
    before = version.read_bytes()
    try:
        version.write_bytes(b"[]")
        assert "version 2 cannot serve again, damaged file: " in said("rollback", "photos/first", code=1)
    finally:
        version.write_bytes(before)
    assert serves(inside) == "quick__s0"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["promote", "photos/frist"], "no such experiment here; defined are photos/first"),
        (["promote", "photos/first", "--trial", "cnn__s9"], "not a trial of photos/first; it has cnn__s0, quick__s0"),
        (["promote", "photos/first", "--checkpoint", "ab"], "it says what is approved; add --approve NAME"),
        (["rollback", "photos/frist"], "no such experiment here"),
        (["history", "photos/frist"], "no such experiment here"),
    ],
)
def test_usage__a_mistake_is_named_with_its_cure(inside: Project, words: list[str], complaint: str) -> None:
    assert complaint in said(*words, code=2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_promote__the_command_that_a_held_candidate_names_approves_it(inside: Project) -> None:
    """Typed in a shell, through `dagster asset materialize`; alone or after the story above."""
    held = done(inside.folder, "kestrel", "promote", "photos/first", "--trial", "cnn__s0", code=1)
    assert "\nheld: cnn__s0" in held
    command = next(line.split("to give it: ")[1] for line in held.splitlines() if line.startswith("  checkpoint "))
    told = done(inside.folder, *shlex.split(command))
    assert (inside.data / "cards/photos/first/model_card.md").is_file()
    assert "\npromoted: cnn__s0" in told
    assert serves(inside) == "cnn__s0"
