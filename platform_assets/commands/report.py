"""`kestrel report`: an experiment as a page, as a comment on a pull request, or as test cases for CI."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.settings import Settings
    from platform_assets.vision.cards.report_facts import Outcome, ReportFacts

FORMATS = ("html", "md", "junit")


@click.command()
@click.argument("experiment")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="md",
    show_default=True,
    help="html: one page that needs no network. md: for a comment on a pull request. junit: XML for CI.",
)
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file to write; standard output unless given."
)
def report(experiment: str, format_: str, output: Path | None) -> None:
    """Report what EXPERIMENT (elpv/probes) found: leaderboard, paired tests, gate, checks, classes, worst mistakes.

    It is made anew from the tables and checks as they are now, and computes no figure again. In junit every trial, rule
    of the gate and asset check is a test case; the exit code is 0 whatever fails, so that CI reads the file.

    \b
    kestrel report elpv/probes
    kestrel report elpv/probes --format html --output report.html
    kestrel report elpv/probes --format junit --output report.xml
    """
    from platform_assets.cli import experiment_named

    text = _written(experiment_named(experiment), format_)
    if output is None:
        click.echo(text, nl=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    click.echo(f"{output}: {len(text.encode()):,} bytes", err=True)


def _written(spec: ExperimentSpec, format_: str) -> str:
    """Raises ClickException, which names what to materialize."""
    from platform_assets.components.report_steps import StaleLeaderboard
    from platform_assets.settings import Settings
    from platform_assets.stores.tables import MissingTable

    writers: dict[str, Callable[[ExperimentSpec, Settings], str]] = {"html": _html, "md": _markdown, "junit": _junit}
    try:
        return writers[format_](spec, Settings())
    except (MissingTable, StaleLeaderboard) as error:
        cure = f"or all of the experiment with: kestrel materialize {'/'.join(spec.key)}"
        raise click.ClickException(f"{error}\n{cure}") from error


def _html(spec: ExperimentSpec, settings: Settings) -> str:
    from platform_assets.components.project_specs import dataset_of
    from platform_assets.components.report_steps import html_page, image_root
    from platform_assets.resources import resources

    images = image_root(spec, dataset_of(spec, Path.cwd()), resources(settings)["files"])
    return html_page(_facts(spec, settings), images)


def _markdown(spec: ExperimentSpec, settings: Settings) -> str:
    from platform_assets.vision.cards.report_markdown import report_markdown

    return report_markdown(_facts(spec, settings))


def _junit(spec: ExperimentSpec, settings: Settings) -> str:
    """Of an experiment that is not finished as well: that is what CI has to see."""
    from platform_assets.components.report_steps import gate_outcomes, trial_outcomes
    from platform_assets.resources import resources
    from platform_assets.vision.cards.junit import junit_xml

    tables = resources(settings)["tables"].open()
    suites = {
        "trials": trial_outcomes(spec, tables),
        "gate": gate_outcomes(spec, tables),
        "checks": _checks(spec, settings),
    }
    return junit_xml("/".join(spec.key), suites)


def _facts(spec: ExperimentSpec, settings: Settings) -> ReportFacts:
    from platform_assets.components.report_steps import report_facts
    from platform_assets.resources import resources

    opened = resources(settings)
    return report_facts(spec, opened["tables"].open(), opened["outputs"].open(), checks=_checks(spec, settings))


def _checks(spec: ExperimentSpec, settings: Settings) -> list[Outcome]:
    """As the project's Dagster instance has them."""
    import dagster as dg

    from platform_assets.cli import project_module
    from platform_assets.components.report_steps import latest_checks

    definitions = importlib.import_module(project_module()).defs()
    keys = definitions.get_repository_def().asset_graph.asset_check_keys
    ours = [key for key in keys if list(key.asset_key.path[:-1]) == spec.key]
    with dg.DagsterInstance.from_config(str(settings.root)) as instance:
        return latest_checks(instance, ours)
