"""`kestrel results`: what finished experiments show, in a terminal or on a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click


@click.command()
@click.argument("names", metavar="EXPERIMENT...", nargs=-1, required=True)
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Write one Markdown page of them all.")
@click.option("--baseline", type=click.Choice(["csv", "json"]), help="The table of linear probes instead.")
def results(names: Sequence[str], write: Path | None, baseline: Literal["csv", "json"] | None) -> None:
    """Print the leaderboard of EXPERIMENT (elpv/probes), and where its model card and exports lie.

    With --write, the full leaderboards of all that are named go to one page, with the stamp of every trial; an
    experiment of another project is FOLDER:DATASET/EXPERIMENT.

    \b
    kestrel results elpv/probes
    kestrel results elpv/probes --baseline csv
    kestrel results --write docs/results.md elpv/probes ../shop:grocery/probe
    """
    from platform_assets.stores.tables import MissingTable

    if write and baseline:
        raise click.UsageError("--write and --baseline are two things; give one")
    try:
        if write:
            _write(write, names)
        else:
            for name in names:
                _print(name, baseline)
    except MissingTable as error:
        raise click.ClickException(str(error)) from error


def _print(name: str, baseline: Literal["csv", "json"] | None) -> None:
    from platform_assets.cli import experiment_named
    from platform_assets.commands.finished import print_results
    from platform_assets.components.baseline_steps import baseline_file
    from platform_assets.settings import Settings
    from platform_assets.stores.tables import MissingTable, Tables

    spec = experiment_named(name)
    if baseline is None:
        print_results(spec)
        return
    path = baseline_file(spec, Tables(Settings().tables_dir), baseline)
    if not path.is_file():
        raise MissingTable(
            f"{name}: no baseline table at {path}; materialize {name}/baseline_table, of its linear probes"
        )
    click.echo(path.read_text(encoding="utf-8"), nl=False)


def _write(path: Path, names: Sequence[str]) -> None:
    from platform_assets.cli import project_module
    from platform_assets.commands.results_page import NoResults, read_results, results_page

    project_module()  # says what to do in a folder that is no project
    try:
        found = [read_results(name) for name in names]
    except NoResults as error:
        raise click.ClickException(str(error)) from error
    path.write_text(results_page(found, f"kestrel results --write {path} {' '.join(names)}"), encoding="utf-8")
    click.echo(f"{path}: {len(found)} experiments, {sum(len(each.stamps) for each in found)} trials")
