"""What a judgement is asked for: which trial, by whom, and who approves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from platform_assets.components.evidence_steps import Candidate
from platform_assets.components.leaderboard_steps import metrics_rows

if TYPE_CHECKING:
    from platform_assets.components.desk import Desk
    from platform_assets.stores.gate_records import Asked, GateRecords

_ASKERS = {"dagster/schedule_name": "schedule", "dagster/sensor_name": "sensor", "dagster/backfill": "backfill"}
_AUTOMATIONS = ("dagster/from_automation_condition", "dagster/auto_materialize")


class PromotionRequest(dg.Config):
    """Config of the champion's step, in the launchpad or by `kestrel promote`."""

    trial: str | None = Field(None, description="judge this trial in place of the one that val chooses")
    approved_by: list[str] = Field([], description="who approves the candidate, where the gate asks for approval")
    checkpoint_id: str | None = Field(None, description="the checkpoint that they approve, and no other")
    asked_by: str | None = Field(None, description="who asks, for the record")
    asked_with: str | None = Field(None, description="by which command, for the record")


class BadRequest(ValueError):
    """A request that names what there is not, or an approval that cannot count."""


def candidate_of(desk: Desk, request: PromotionRequest) -> Candidate:
    """The trial that val chooses, or the one that is asked for. Raises BadRequest, and ComparisonError where val cannot
    choose because the trials are not comparable."""
    import polars as pl

    from platform_assets.vision.evaluation.comparability import require_comparable
    from platform_assets.vision.evaluation.comparison import choose_champion

    rows = metrics_rows(desk.spec, desk.tables)
    if request.trial is None:
        require_comparable(rows)
    chosen = choose_champion(rows, metric=desk.spec.metric)
    trial, choice = chosen.trial, chosen.reason
    if request.trial is not None:
        if request.trial not in desk.spec.trials:
            known = ", ".join(desk.spec.trials)
            raise BadRequest(f"{request.trial}: not a trial of {'/'.join(desk.spec.key)}; it has {known}")
        trial, choice = request.trial, f"{request.trial!r} was asked for by name; on val {chosen.reason}"
    metrics = rows.row(by_predicate=pl.col("trial") == trial, named=True)
    return Candidate(trial, metrics, desk.row(trial), choice)


def asked_of(desk: Desk, request: PromotionRequest) -> Asked:
    """From the request, or from the tags by which Dagster says what started the run."""
    from platform_assets.stores.gate_records import Asked

    run = desk.context.run
    how = request.asked_with or what_started(run.tags, run.job_name)
    return Asked(by=request.asked_by or run.tags.get("user"), how=how, dagster_run_id=run.run_id)


def what_started(tags: Mapping[str, str], job: str) -> str:
    """The schedule, sensor, backfill or automation that started a run with these tags."""
    askers = [f"{what} {tags[tag]}" for tag, what in _ASKERS.items() if tag in tags]
    automated = ["automation condition"] if any(tag in tags for tag in _AUTOMATIONS) else []
    return [*askers, *automated, f"a run of {job}, from the UI or a shell"][0]


def note_approvals(
    desk: Desk, records: GateRecords, candidate: Candidate, request: PromotionRequest, asked: Asked
) -> None:
    """Write down who approves the candidate. Raises BadRequest when it is not their word to give, or of another one."""
    from platform_assets.stores.gate_records import Approval

    rule, found = desk.spec.gate.approval, candidate.checkpoint.checkpoint_id
    if not request.approved_by:
        return
    if rule is None:
        raise BadRequest(f"{'/'.join(desk.spec.key)}: its gate asks for no approval; leave approved_by out")
    if strangers := [name for name in request.approved_by if name not in rule.approvers]:
        raise BadRequest(f"{', '.join(strangers)}: not among the approvers {', '.join(rule.approvers) or '(none)'}")
    if request.checkpoint_id != found:
        raise BadRequest(
            f"the approval is for checkpoint {request.checkpoint_id}, and the candidate {candidate.trial} is {found}; "
            "look at that one, and approve it by its id"
        )
    for name in request.approved_by:
        records.approve(Approval(name=name, checkpoint_id=found, asked=asked))
