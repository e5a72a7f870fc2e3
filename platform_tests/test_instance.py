"""One Dagster instance for every command, without a variable to export; the commands' exit codes; a clean checkout."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dotenv import dotenv_values

from platform_assets.instance import NotAProject, write_env

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

DEFINITIONS = """
import dagster as dg

class Taken(dg.Config):
    images: int = 3

@dg.asset(pool="accelerator")
def taken(config: Taken) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"images": config.images})

@dg.asset
def damaged() -> dg.MaterializeResult:
    raise ValueError("this step fails")

@dg.asset(check_specs=[dg.AssetCheckSpec("holds", asset="gated", blocking=True)])
def gated() -> dg.MaterializeResult:
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False)])

@dg.asset(deps=[gated])
def behind_the_gate() -> dg.MaterializeResult:
    return dg.MaterializeResult()

@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["probe__s0"]))
def checkpoint() -> dg.MaterializeResult:
    return dg.MaterializeResult()

@dg.definitions
def defs() -> dg.Definitions:
    return dg.Definitions(
        assets=[taken, damaged, gated, behind_the_gate, checkpoint], executor=dg.in_process_executor
    )
"""
MATERIALIZE = ["dagster", "asset", "materialize", "-m", "probe_project.definitions", "--select"]
COMMANDS = {
    "failed step": [*MATERIALIZE, "damaged"],
    "failed blocking check": [*MATERIALIZE, "gated,behind_the_gate"],
    "unknown partition": [*MATERIALIZE, "checkpoint", "--partition", "probe__s9"],
    "bad config": [*MATERIALIZE, "taken", "--config-json", '{"ops": {"taken": {"config": {"images": "many"}}}}'],
    "dagster definitions validate": ["dagster", "definitions", "validate"],
    "dg check defs": ["dg", "check", "defs"],
}
RUNS = "{ runsOrError { ... on Runs { results { status } } } "
LOCATIONS = "workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError { __typename } } } } }"


@dataclass
class Session:
    """What the commands left behind, in a throw-away project with this repository's root files."""

    project: Path
    done: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    seen_by_dev: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("probe") / "it's a project"
    (project / "probe_project/components").mkdir(parents=True)
    (project / "probe_project/__init__.py").touch()
    (project / "probe_project/components/__init__.py").touch()
    (project / "probe_project/definitions.py").write_text(DEFINITIONS)
    shutil.copy(ROOT / "dagster.yaml", project)
    for name in ("pyproject.toml", "workspace.yaml"):
        (project / name).write_text((ROOT / name).read_text().replace("platform_assets", "probe_project"))
    return project


@pytest.fixture(scope="module")
def session(project: Path) -> Session:
    """First one command without .env, which makes the databases; then the others, two at a time; then the UI."""
    session = Session(project)
    session.done["success, no .env"] = run(project, [*MATERIALIZE, "taken"])
    write_env(project)
    with ThreadPoolExecutor(2) as pool:
        finished = pool.map(lambda command: run(project, command), COMMANDS.values())
        session.done.update(zip(COMMANDS, finished, strict=True))
    with dagster_dev(project) as url:
        session.seen_by_dev = ask(url, RUNS + LOCATIONS)
    return session


EXIT_CODES = {"success, no .env": 0} | {name: int("def" not in name) for name in COMMANDS}


@pytest.mark.parametrize(("command", "code"), EXIT_CODES.items())
def test_cli__exit_code(session: Session, command: str, code: int) -> None:
    done = session.done[command]
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]


def test_cli__fails_for_the_reason_it_should(session: Session) -> None:
    said = {name: done.stdout + done.stderr for name, done in session.done.items()}
    assert "this step fails" in said["failed step"]
    assert "holds" in said["failed blocking check"]
    assert "probe__s9" in said["unknown partition"]
    assert 'Value "many"' in said["bad config"]


def test_instance__every_command_found_the_same_one(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(session.project)
    with dg.DagsterInstance.from_config(str(session.project)) as instance:
        statuses = Counter(run.status.value for run in instance.get_runs())
        assert statuses == {"SUCCESS": 1, "FAILURE": 2}, "of which SUCCESS was made without .env"
        assert instance.get_latest_materialization_event(dg.AssetKey("behind_the_gate")) is None
    assert Counter(run["status"] for run in session.seen_by_dev["runsOrError"]["results"]) == statuses
    for command in ("dagster definitions validate", "dg check defs"):
        assert "temporary directory" not in session.done[command].stdout + session.done[command].stderr


def test_instance__dev_loads_the_code_location(session: Session) -> None:
    assert session.seen_by_dev["workspaceOrError"]["locationEntries"] == [
        {"name": "kestrel", "locationOrLoadError": {"__typename": "RepositoryLocation"}}
    ]


def test_instance__state_lies_under_data_alone(session: Session) -> None:
    ours = {"dagster.yaml", "workspace.yaml", "pyproject.toml", "probe_project", ".env"}
    assert {path.name for path in session.project.iterdir()} - ours == {"data"}
    assert {path.name for path in (session.project / "data").iterdir()} == {"dagster"}


def test_instance__is_configured_as_promised(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with dg.DagsterInstance.from_config(str(project)) as instance:
        pools = instance.get_concurrency_config().pool_config
        assert (pools.pool_granularity.value, pools.default_pool_limit) == ("op", 1)
        assert Path(instance.storage_directory()).resolve().is_relative_to(project / "data")
        assert instance.run_monitoring_enabled
        assert instance.get_settings("run_monitoring")["free_slots_after_run_end_seconds"] == 60
        assert instance.run_retries_enabled
        assert instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert not instance.telemetry_enabled
        assert {"schedule", "sensor", "auto_materialize"} <= set(instance.get_settings("retention"))


def test_workspace__names_the_location_of_pyproject() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    [location] = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert location["python_module"] == {
        "module_name": pyproject["dagster"]["module_name"],
        "location_name": pyproject["dagster"]["code_location_name"],
    }
    assert pyproject["dg"]["project"]["code_location_name"] == pyproject["dagster"]["code_location_name"]


def test_init__gives_a_project_this_dagster_yaml() -> None:
    template = ROOT / "platform_assets/templates/dagster.yaml"
    assert template.read_text() == (ROOT / "dagster.yaml").read_text(), f"cp dagster.yaml {template.relative_to(ROOT)}"


@pytest.mark.parametrize("name", ["plain", "two words", "it's", 'say "x"', "cash $HOME", "back\\slash", "ä#ö"])
def test_write_env__any_folder_survives_it(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir()
    (root / "dagster.yaml").touch()
    assert dotenv_values(write_env(root)) == {"DAGSTER_HOME": str(root), "DAGSTER_DISABLE_TELEMETRY": "1"}


def test_write_env__keeps_the_users_lines_and_corrects_its_own(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").touch()
    (tmp_path / ".env").write_text("export DAGSTER_HOME=/moved/away\n# mine\nKESTREL_DEVICE=mps\n")
    first = write_env(tmp_path).read_text()
    assert dotenv_values(tmp_path / ".env")["DAGSTER_HOME"] == str(tmp_path)
    assert first.endswith("# mine\nKESTREL_DEVICE=mps\n")
    assert write_env(tmp_path).read_text() == first
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


def test_write_env__refuses_a_folder_that_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(NotAProject, match=r"no dagster\.yaml"):
        write_env(tmp_path)
    odd = tmp_path / "${HOME}"
    odd.mkdir()
    (odd / "dagster.yaml").touch()
    with pytest.raises(NotAProject, match="move the project"):
        write_env(odd)


def clean_environment(project: Path) -> dict[str, str]:
    """A newcomer's: nothing of dagster's or ours exported. A HOME of its own, for dg leaves a log there."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER", "KESTREL"))}
    return kept | {"HOME": str(project.parent)}


def run(project: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=project,
        env=clean_environment(project),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


@contextmanager
def dagster_dev(project: Path) -> Iterator[str]:
    """`dagster dev` in a process group of its own, which is gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [str(BIN / "dagster"), "dev", "--port", port],
        cwd=project,
        env=clean_environment(project),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield f"http://127.0.0.1:{port}/graphql"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def ask(url: str, query: str, patience_s: float = 120) -> dict:
    request = urllib.request.Request(url, json.dumps({"query": query}).encode(), {"content-type": "application/json"})
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)["data"]
        except OSError:
            assert time.monotonic() < deadline, f"{url}: no answer in {patience_s} s"
            time.sleep(0.3)
