"""`kestrel replay`: a trial made again, in a terminal."""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from platform_assets.settings import Settings

if TYPE_CHECKING:
    from platform_assets.commands.replay_sources import Replay

EQUAL, DIFFERENT, NOT_REPLAYED = 0, 1, 2


@click.command()
@click.argument("run")
@click.option("--trial", help="Which trial of a dagster run.")
@click.option("--evaluate-only", is_flag=True, help="Predict and score again with the weights as they are.")
@click.option("--embed-anew", is_flag=True, help="Take no vector of a frozen backbone from the cache.")
@click.option("--into", type=click.Path(path_type=Path), help="New folder that keeps what comes out.")
def replay(run: str, trial: str | None, evaluate_only: bool, embed_anew: bool, into: Path | None) -> None:
    """Make the trial RUN again from its env.json and config.json, and compare what comes out, bit for bit.

    RUN is a folder, a checkpoint_id, an MLflow run, a dagster run, or DATASET/EXPERIMENT/TRIAL. Outputs, tables and
    MLflow are not touched. Exit codes: 0 equal, 1 different, 2 cannot be replayed.

    \b
    kestrel replay elpv/probes/stages__s0
    kestrel replay 4f1c09d2a7b3e856 --evaluate-only
    """
    if into is not None and into.exists():
        raise click.UsageError(f"--into {into}: exists already; name a new folder")
    with nullcontext(str(into)) if into else tempfile.TemporaryDirectory(prefix="kestrel-replay-") as scratch:
        try:
            code = _replayed(run, trial, Path(scratch), evaluate_only, embed_anew)
        except ValueError as error:
            _not_replayed(error)
    raise SystemExit(code)


def _not_replayed(error: ValueError) -> NoReturn:
    """Our own errors say what is not here; anything else is a defect and keeps its traceback."""
    if not type(error).__module__.startswith("platform_assets."):
        raise error
    click.echo(f"cannot be replayed: {error}", err=True)
    raise SystemExit(NOT_REPLAYED) from error


def _replayed(run: str, trial: str | None, scratch: Path, evaluate_only: bool, embed_anew: bool) -> int:
    from platform_assets.commands.replay_sources import open_replay
    from platform_assets.commands.replaying import environment_differences, reevaluated, retrained
    from platform_assets.commands.trial_folders import folder_named

    settings, started = Settings(), time.monotonic()
    found = open_replay(folder_named(run, trial, settings), settings, scratch, _say)
    _describe(found)
    changed = list(environment_differences(found))
    for fact in changed:
        click.echo(f"environment  {fact}")
    if not changed:
        click.echo("environment  every fact of env.json holds here")
    if evaluate_only:
        difference = reevaluated(found, embed_anew=embed_anew)
        equal = f"predictions and metrics of {found.checkpoint_id} came out the same, bit for bit"
    else:
        checkpoint_id, difference = retrained(found, embed_anew=embed_anew)
        equal = f"checkpoint {checkpoint_id} came out again"
        difference = (
            f"checkpoint {checkpoint_id} instead of {found.checkpoint_id}: {difference}" if difference else None
        )
    seconds = time.monotonic() - started
    click.echo(f"\ndifferent: {difference}" if difference else f"\nequal: {equal}, in {seconds:.1f} s")
    return DIFFERENT if difference else EQUAL


def _describe(found: Replay) -> None:
    trial, records = found.trial, found.inputs.records
    click.echo(f"trial        {trial.dataset}/{trial.experiment}/{trial.trial} at {found.folder.url}")
    click.echo(f"config       {found.folder.manifest().config_hash[:16]}, seed {trial.seed}, on {found.device}")
    click.echo(f"data         {found.inputs.records_version}: {records.height:,} images, each with the bytes it had")


def _say(text: str) -> None:
    click.echo(text, err=True)
