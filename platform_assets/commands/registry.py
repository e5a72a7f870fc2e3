"""`kestrel promote`, `rollback` and `history`: what is typed and what is printed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from platform_assets.commands.columns import print_columns
from platform_assets.settings import Settings

if TYPE_CHECKING:
    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.rollback_steps import Places
    from platform_assets.stores.gate_records import GateRecord, Side

_AFTER_IT = ("champion", "exports", "model_card")


@click.command()
@click.argument("experiment")
@click.option("--trial", help="Judge this trial (probe__s0) in place of the one that val chooses.")
@click.option(
    "--approve", "approvers", multiple=True, metavar="NAME", help="Approve the held candidate; may be repeated."
)
@click.option("--checkpoint", help="The checkpoint id that is approved; any other candidate is refused.")
def promote(experiment: str, trial: str | None, approvers: tuple[str, ...], checkpoint: str | None) -> None:
    """Have the gate of EXPERIMENT (elpv/probes) judge its candidate; if it passes, it serves and is exported.

    This materializes champion, exports and model card, as the UI does: there is no way around the gate. Exit code 0 when
    the candidate serves afterwards, 1 when it is refused, kept out by the incumbent, or held until someone approves it.

    \b
    kestrel promote elpv/probes
    kestrel promote elpv/probes --trial stages__s1
    kestrel promote elpv/probes --approve "Ada Lovelace"
    """
    from platform_assets.cli import experiment_named, run_to_end

    spec = experiment_named(experiment)
    if trial is not None and trial not in spec.trials:
        raise click.UsageError(f"--trial {trial}: not a trial of {experiment}; it has {', '.join(spec.trials)}")
    request: dict[str, Any] = {"asked_with": "kestrel promote", "asked_by": _user()}
    places = _places(spec)
    if approvers:
        held = _held(spec, places.records.read(), trial, checkpoint, approvers)
        click.echo(f"{' and '.join(approvers)}: checkpoint {held.checkpoint_id} of {held.trial} is approved", err=True)
        request |= {"approved_by": list(approvers), "checkpoint_id": held.checkpoint_id, "trial": held.trial}
    elif checkpoint:
        raise click.UsageError(f"--checkpoint {checkpoint}: it says what is approved; add --approve NAME")
    elif trial is not None:
        request["trial"] = trial
    before = len(places.records.read())
    command = promote_command(spec, request)
    click.echo(f"$ {shlex.join(command)}", err=True)
    code = run_to_end(command)
    decided = places.records.read()[before:]
    if decided:
        _print_decision(decided[-1])
    if code or not decided or decided[-1].candidate.checkpoint_id != _serves(spec, places):
        raise SystemExit(code or 1)


@click.command()
@click.argument("experiment")
def rollback(experiment: str) -> None:
    """Put the champion before back into service in EXPERIMENT (elpv/probes), at once and without a judgement.

    It waits for no training. The decision is recorded; the checkpoint that leaves is not promoted again by a schedule,
    only by `kestrel promote EXPERIMENT --trial TRIAL`. A second rollback undoes the first.
    """
    import dagster as dg

    from platform_assets.cli import experiment_named
    from platform_assets.components.rollback_steps import NothingToGoBackTo, roll_back
    from platform_assets.stores.gate_records import Asked
    from platform_assets.stores.registry import ChampionMoved

    spec = experiment_named(experiment)
    asked = Asked(by=_user(), how="kestrel rollback", dagster_run_id=None)
    try:
        with dg.DagsterInstance.from_config(str(Settings().root)) as instance:
            record = roll_back(spec, _places(spec), asked, instance)
    except (NothingToGoBackTo, ChampionMoved) as error:
        raise click.ClickException(str(error)) from error
    _print_decision(record)
    after = " or ".join(f'key:"{experiment}/{name}"' for name in _AFTER_IT[1:])
    click.echo(f"exports and model card follow with: dagster asset materialize --select '{after}'")


@click.command()
@click.argument("experiment")
@click.option("--record", "name", help="The rules of one decision, by its record: measured, threshold, passed.")
@click.option("-n", "count", default=20, show_default=True, help="The last so many decisions.")
def history(experiment: str, name: str | None, count: int) -> None:
    """Print the decisions of the gate of EXPERIMENT (elpv/probes), the newest first.

    \b
    promoted     the candidate took the alias; `cut off` when a crash came before that
    kept         the incumbent stays: it is not shown to be beaten, or is the candidate itself
    held         all that lacks is a person's approval
    refused      the candidate fails on its own
    rolled_back  the champion before serves again
    """
    from platform_assets.cli import experiment_named
    from platform_assets.components.gate_tables import findings_table, history_table

    spec = experiment_named(experiment)
    places = _places(spec)
    records = places.records.read()
    if not records:
        raise click.ClickException(f"{experiment}: nothing was judged yet; `kestrel promote {experiment}` does")
    if name is None:
        frame = history_table(records, _serves(spec, places)).head(count)
    else:
        named = [record for record in records if record.id == name]
        if not named:
            raise click.UsageError(f"--record {name}: no such record; `kestrel history {experiment}` names them")
        _print_decision(named[0])
        frame = findings_table(named[0])
    rows = [tuple("-" if cell is None else _text(cell) for cell in row) for row in frame.rows()]
    print_columns([tuple(frame.columns), *rows])


def promote_command(spec: ExperimentSpec, request: dict[str, Any]) -> list[str]:
    """The `dagster asset materialize` line that judges; the request is the config of the champion's step."""
    from platform_assets.cli import dagster_materialize
    from platform_assets.components.specs import op_name

    ops = {op_name(spec, "champion"): {"config": request}}
    names = " or ".join(f'key:"{"/".join(spec.key)}/{name}"' for name in _AFTER_IT)
    return [*dagster_materialize({"ops": ops}), names]


def _held(
    spec: ExperimentSpec,
    records: Sequence[GateRecord],
    trial: str | None,
    checkpoint: str | None,
    approvers: tuple[str, ...],
) -> Side:
    """The candidate that waits. Raises click.UsageError when none does, or one of these may not approve it."""
    from platform_assets.stores.gate_records import waiting

    experiment, rule = "/".join(spec.key), spec.gate.approval
    if rule is None:
        raise click.UsageError(f"--approve: the gate of {experiment} asks for no approval; leave it out")
    for name in approvers:
        if name not in rule.approvers:
            raise click.UsageError(f"--approve {name}: the gate of {experiment} names {', '.join(rule.approvers)}")
    waits = [
        side for side in waiting(records) if trial in (None, side.trial) and checkpoint in (None, side.checkpoint_id)
    ]
    if not waits:
        asked = [trial, f"checkpoint {checkpoint}" if checkpoint else None]
        what = ", ".join(filter(None, asked)) or "no candidate"
        said = "does not wait" if any(asked) else "waits"
        cure = f"`kestrel promote {experiment}` judges first, `kestrel history {experiment}` shows what was held"
        raise click.UsageError(f"{experiment}: {what} {said} for approval; {cure}")
    return waits[-1]


def _places(spec: ExperimentSpec) -> Places:
    from platform_assets.components.champion_steps import gate_records
    from platform_assets.components.rollback_steps import Places
    from platform_assets.resources import resources

    found = resources(Settings())
    tables = found["tables"].open()
    records = gate_records(spec, tables, found["files"])
    return Places(runs=found["runs"].open(), outputs=found["outputs"].open(), tables=tables, records=records)


def _serves(spec: ExperimentSpec, places: Places) -> str | None:
    """The checkpoint in service."""
    champion = places.runs.champion(spec.group)
    return champion.tags["checkpoint_id"] if champion else None


def _print_decision(record: GateRecord) -> None:
    before = record.incumbent
    against = f" against {before.trial} {before.checkpoint_id}" if before else ""
    click.echo(f"{record.verdict}: {record.candidate.trial} {record.candidate.checkpoint_id}{against}")
    for reason in record.reasons:
        click.echo(f"  {reason}")
    click.echo(f"  record {record.id}")


def _text(cell: object) -> str:
    return f"{cell:.5g}" if isinstance(cell, float) else str(cell)


def _user() -> str:
    from platform_assets.stores.gate_records import os_user

    return os_user()
