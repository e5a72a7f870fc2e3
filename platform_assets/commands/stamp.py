"""`kestrel stamp`: what made a trial, in a terminal."""

from __future__ import annotations

import json

import click

from platform_assets.commands.columns import print_columns
from platform_assets.settings import Settings


@click.group()
def stamp() -> None:
    """What made a trial: environment, config, data version, and the hashes of what came out."""


@stamp.command()
@click.argument("run")
@click.option("--trial", help="Which trial of a dagster run.")
@click.option("--json", "as_text", is_flag=True, help="All of it as JSON.")
def show(run: str, trial: str | None, as_text: bool) -> None:
    """Print the stamp of RUN, and below it the excerpt that a pull request cites. Exit code 1 when a file has changed.

    RUN is a folder, a checkpoint_id, an MLflow run, a dagster run, or DATASET/EXPERIMENT/TRIAL.

    \b
    kestrel stamp show elpv/probes/stages__s0
    """
    from platform_assets.commands.trial_folders import UnknownRun, folder_named
    from platform_assets.commands.trial_stamps import as_json, excerpt, read_stamp
    from platform_assets.stores.manifests import BadOutputName, DamagedOutput, IncompleteOutput

    try:
        found = read_stamp(folder_named(run, trial, Settings()))
    except (BadOutputName, DamagedOutput, IncompleteOutput, UnknownRun) as error:
        raise click.ClickException(str(error)) from error
    if as_text:
        click.echo(json.dumps(as_json(found), indent=2))
    else:
        facts = {
            "trial": found.name,
            "checkpoint_id": found.manifest.checkpoint_id,
            "data_version": found.records_version,
            "device": found.device,
            **found.environment,
            "folder": found.folder_url,
        }
        print_columns([(name, "none" if value is None else str(value)) for name, value in facts.items()])
        click.echo("\nMANIFEST.json")
        files = sorted(found.manifest.files.items())
        print_columns([(name, f"{of.bytes:,}".rjust(12), of.sha256) for name, of in files])
        click.echo(f"\n{excerpt(found)}")
    if found.problems:
        raise SystemExit(1)
