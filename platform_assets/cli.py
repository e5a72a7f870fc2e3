"""The kestrel command: the verbs of the graph for people who live in a terminal. Heavy work stays in the assets."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from platform_assets.commands.backbones import backbones
from platform_assets.commands.columns import print_columns
from platform_assets.commands.data import data
from platform_assets.commands.lr_find import lr_find
from platform_assets.commands.registry import history, promote, rollback
from platform_assets.commands.replay import replay
from platform_assets.commands.report import report
from platform_assets.commands.results import results
from platform_assets.commands.sql import sql
from platform_assets.commands.stamp import stamp
from platform_assets.settings import quiet_environment

if TYPE_CHECKING:
    from platform_assets.components.experiment_spec import ExperimentSpec

DEMO = ("elpv", "probes")


class _OurErrors(click.Group):
    """Our own errors are messages, broken YAML among them; anything else is a defect and keeps its traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except ValueError as error:
            if type(error).__module__.startswith("platform_assets."):
                raise click.ClickException(str(error)) from error
            raise


@click.group(cls=_OurErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kestrel-vision")
def main() -> None:
    """Datasets, training, evaluation and models as one Dagster asset graph."""


main.add_command(data)
main.add_command(lr_find)
main.add_command(backbones)
main.add_command(promote)
main.add_command(rollback)
main.add_command(history)
main.add_command(results)
main.add_command(replay)
main.add_command(stamp)
main.add_command(sql)
main.add_command(report)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Your folder of class folders."
)
@click.option("--name", help="Name of the project's package; the folder's name unless given.")
def init(folder: Path, images: Path | None, name: str | None) -> None:
    """Write a new project into FOLDER: YAML, dagster.yaml and nothing else."""
    from platform_assets.scaffold import ProjectExists, create_project

    try:
        written = create_project(folder, images=images, name=name)
    except ProjectExists as error:
        raise click.ClickException(str(error)) from error
    for path in written:
        click.echo(path)
    click.echo(
        f"\nNext:\n  cd {folder}\n  kestrel materialize photos\n  kestrel materialize photos/first\n  dagster dev"
    )


@main.command()
@click.argument("what")
@click.option("--trial", help="One trial alone, such as probe__s0.")
def materialize(what: str, trial: str | None) -> None:
    """Materialize WHAT: a dataset (elpv) or an experiment whole (elpv/probes), through `dagster asset materialize`."""
    command = materialize_command(what, trial)
    click.echo(f"$ {shlex.join(command)}", err=True)
    os.execve(command[0], command, quiet_environment())


@main.command()
def demo() -> None:
    """Materialize the shipped solar-cell experiment and say where its results are."""
    from platform_assets.commands.finished import print_results

    command = materialize_command("/".join(DEMO), None, with_dataset=True)
    click.echo(f"$ {shlex.join(command)}", err=True)
    if code := run_to_end(command):
        raise SystemExit(code)
    print_results(experiment_named("/".join(DEMO)))


@main.command()
def doctor() -> None:
    """Say what this machine has, what Kestrel chooses on it, and why; exits with 1 when something will not work."""
    from platform_assets.settings import Settings
    from platform_assets.vision.machine.survey import inspect_machine

    settings = Settings()
    found = inspect_machine(settings.data_dir, settings.device, settings.threads)
    marks = {"problem": "!", "good": " "}
    print_columns(
        [
            (f"{marks[each.state]} {each.subject}", f"{each.chosen}  ({each.why})" if each.why else each.chosen)
            for each in found
        ]
    )
    if any(finding.state == "problem" for finding in found):
        raise SystemExit(1)


def materialize_command(what: str, trial: str | None, *, with_dataset: bool = False) -> list[str]:
    """The `dagster asset materialize` line for a dataset, an experiment, or one trial of it. Raises BadYaml."""
    dagster = dagster_materialize({})
    if "/" not in what:
        if trial:
            raise click.UsageError(f"--trial {trial}: trials belong to an experiment; name it, as in {what}/EXPERIMENT")
        require_yaml()
        return [*dagster, f"group:{what}"]
    spec = experiment_named(what)
    if trial:
        if trial not in spec.trials:
            raise click.UsageError(f"--trial {trial}: not a trial of {what}; it has {', '.join(spec.trials)}")
        names = " or ".join(f'key:"{what}/{name}"' for name in ("embeddings", "checkpoint", "predictions", "metrics"))
        return [*dagster, names, "--partition", trial]
    groups = [spec.dataset, spec.group] if with_dataset else [spec.group]
    first, *_, last = [*spec.trials, *list(spec.trials)[-1:]]
    return [*dagster, " or ".join(f"group:{group}" for group in groups), "--partition-range", f"{first}...{last}"]


def dagster_materialize(config: dict[str, Any]) -> list[str]:
    """The line up to the selection that ends it; `config` is run config beside the short log."""
    program = str(Path(sys.executable).with_name("dagster"))
    config_json = json.dumps({"loggers": {"console": {}}} | config)
    return [program, "asset", "materialize", "-m", project_module(), "--config-json", config_json, "--select"]


def project_module() -> str:
    """The code location of the project in the working directory, as its pyproject.toml names it for dagster."""
    try:
        tools = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]
        return str(tools["dagster"]["module_name"])
    except (FileNotFoundError, KeyError) as error:
        cure = "run this in the root of a project, beside dagster.yaml, or start one with `kestrel init DIR`"
        raise click.UsageError(f"{Path.cwd()}: no pyproject.toml with [tool.dagster] module_name; {cure}") from error


def require_yaml() -> None:
    """Raises BadYaml, before dagster says the same in a traceback."""
    from platform_assets.components import Experiment, VisionDataset
    from platform_assets.components.project_specs import components_of

    for kind in (VisionDataset, Experiment):
        components_of(Path.cwd(), kind)


def experiment_named(what: str) -> ExperimentSpec:
    """The experiment that the YAML of the project in the working directory defines. Raises click.UsageError, BadYaml."""
    from platform_assets.components.project_specs import experiments

    project_module()  # says what to do in a folder that is no project
    found = {"/".join(spec.key): spec for spec in experiments(Path.cwd())}
    if what not in found:
        raise click.UsageError(f"{what}: no such experiment here; defined are {', '.join(sorted(found)) or 'none'}")
    return found[what]


def run_to_end(command: list[str]) -> int:
    """Run to the end. Ctrl-C is the child's to answer: it saves its work and exits by itself."""
    process = subprocess.Popen(command, env=quiet_environment())
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, previous)
