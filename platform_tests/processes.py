"""Projects driven from outside: the real commands in processes of their own, with logs and deadlines."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from platform_assets.instance import write_env

# As the UI of dagster 1.13.27 sends it.
_LAUNCH_BACKFILL = """mutation ($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) { __typename ... on LaunchBackfillSuccess { backfillId } }
}"""
BIN = Path(sys.executable).parent
Ask = Callable[..., str]


class Running:
    """A command under way, its output in a file. Ended with its block, if it has not ended by itself."""

    def __init__(self, project: Path, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=project,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until_it_says(self, text: str, *, within_s: float = 120) -> None:
        until(lambda: text in self.said or self.process.poll() is not None, within_s, lambda: self.said[-3000:])
        assert text in self.said, f"ended with {self.process.returncode} before {text!r}: {self.said[-3000:]}"


@contextmanager
def started(project: Path, *command: str) -> Iterator[Running]:
    running = Running(project, list(command), project / f"{time.monotonic_ns()}.log")
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait(30)


def done(project: Path, *command: str, code: int = 0, within_s: float = 240) -> str:
    """What a command that ends with `code` says."""
    with started(project, *command) as running:
        found = running.process.wait(within_s)
        assert found == code, f"exit code {found}: {running.said[-4000:]}"
        return running.said


@contextmanager
def user_interface(project: Path) -> Iterator[Ask]:
    """The UI's server, and a function that sends it what the UI sends. The answer takes no longer than a click."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def ask(query: str, **variables: Any) -> str:
        body, kind = json.dumps({"query": query, "variables": variables}).encode(), {"content-type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/graphql", body, kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def answers() -> bool:
        with suppress(OSError):
            return "__typename" in ask("{ __typename }")
        return False

    with started(project, "dagster-webserver", "-w", "workspace.yaml", "-p", port) as server:
        until(answers, 120, lambda: server.said[-3000:])
        yield ask
        server.process.terminate()
        server.process.wait(30)


def launch_backfill(ask: Ask, assets: Iterable[str], partitions: Sequence[str]) -> None:
    """What the button "Launch backfill" does; a daemon has to run."""
    selection = [{"path": asset.split("/")} for asset in assets]
    asked = {"assetSelection": selection, "partitionNames": partitions, "fromFailure": False}
    assert "LaunchBackfillSuccess" in ask(_LAUNCH_BACKFILL, backfillParams=asked)


def until(holds: Callable[[], bool], within_s: float, seen: Callable[[], object]) -> None:
    """Looks ten times a second, and fails after `within_s` with what was seen."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {within_s} s; seen: {seen()}"
        time.sleep(0.1)


def clean_environment() -> dict[str, str]:
    """A newcomer's: nothing of dagster's or ours exported; torch embeds, which needs no conversion first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DAGSTER", "KESTREL"))}
    return kept | {"KESTREL_ENGINE": "torch"}


def edit(project: Path, name: str, **changes: Any) -> None:
    """Change attributes of a YAML file that `kestrel init` wrote."""
    (path,) = project.glob(f"*/defs/{name}/defs.yaml")
    document = yaml.safe_load(path.read_text())
    document["attributes"].update(changes)
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def copied(project: Path, to: Path) -> Path:
    """The project with all its data elsewhere: another instance from here on."""
    shutil.copytree(project, to)
    write_env(to)
    return to


@contextmanager
def instance_of(project: Path) -> Iterator[dg.DagsterInstance]:
    """The instance its commands use: dagster.yaml names its folders from the project's root."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        with dg.DagsterInstance.from_config(str(project)) as instance:
            yield instance
