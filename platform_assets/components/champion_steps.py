"""The body of the champion asset: choose on val, have the gate judge, record the decision, move the aliases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from platform_assets.components import metadata as show
from platform_assets.components.evidence_steps import Candidate, verify
from platform_assets.components.gate_steps import judge
from platform_assets.components.gate_tables import findings_table, history_table
from platform_assets.components.promotion_request import PromotionRequest, asked_of, candidate_of, note_approvals
from platform_assets.components.specs import data_version

if TYPE_CHECKING:
    from platform_assets.components.desk import Desk
    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.resources import FilesResource
    from platform_assets.stores.gate_records import GateRecord, GateRecords, Side
    from platform_assets.stores.registry import RegisteredVersion
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.evaluation.gates import Decision

CHAMPION = (
    "The checkpoint in service, chosen on val and let through by the gate on test, with the reason; registered in MLflow "
    "under the alias champion. Every decision of the gate is recorded, refusals too."
)
HISTORY_SHOWN = 20


class ChampionRow(BaseModel):
    """The model in service after this materialization, and what the gate said of the candidate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: int
    checkpoint_id: str
    folder_url: str
    mlflow_run_id: str
    candidate: str
    candidate_checkpoint_id: str
    choice: str
    verdict: str
    reason: str
    gate_record: str = ""

    @classmethod
    def of(cls, serving: RegisteredVersion, record: GateRecord) -> ChampionRow:
        return cls(
            model=serving.name,
            version=serving.version,
            checkpoint_id=serving.tags["checkpoint_id"],
            folder_url=serving.folder_url,
            mlflow_run_id=serving.run_id,
            candidate=record.candidate.trial,
            candidate_checkpoint_id=record.candidate.checkpoint_id,
            choice=record.choice,
            verdict=record.verdict,
            reason=record.reason,
            gate_record=record.id,
        )


def gate_check(spec: ExperimentSpec) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        "champion_passes_its_gate",
        asset=[*spec.key, "champion"],
        description="The candidate passes the gate, or the incumbent stays because the candidate is not better. One that "
        "waits for approval is a warning.",
        blocking=True,
    )


def read_champion(spec: ExperimentSpec, tables: Tables) -> ChampionRow:
    return ChampionRow(**tables.read([*spec.key, "champion"]).row(0, named=True))


def write_champion(spec: ExperimentSpec, tables: Tables, row: ChampionRow) -> None:
    import polars as pl

    tables.write([*spec.key, "champion"], pl.DataFrame([row.model_dump()]))


def gate_records(spec: ExperimentSpec, tables: Tables, files: FilesResource) -> GateRecords:
    from platform_assets.stores.gate_records import GateRecords

    return GateRecords(files.gate_records(*spec.key), tables, spec.key)


def champion(desk: Desk, request: PromotionRequest) -> dg.MaterializeResult[Any]:
    """Raises Failure when the gate lets the candidate not through and no model is in service."""
    from platform_assets.stores.gate_records import rolled_back

    candidate, asked = candidate_of(desk, request), asked_of(desk, request)
    records = gate_records(desk.spec, desk.tables, desk.files)
    note_approvals(desk, records, candidate, request, asked)
    incumbent = desk.runs.champion(desk.spec.group)
    verified = verify(desk, candidate)
    side = _side(candidate, _challenge(desk, candidate, incumbent) if verified[0] is not None else None)
    approvals = records.approvals(side.checkpoint_id, incumbent.tags["checkpoint_id"] if incumbent else None)
    rollback = None if request.trial else rolled_back(records.read(), side.checkpoint_id)
    decision = judge(desk, candidate, verified, incumbent, approvals=approvals, rollback=rollback)
    record = _record(desk, decision, side, incumbent, choice=candidate.choice, asked=asked, approvals=approvals)
    records.append(record)
    _say(desk, record)
    serving = _carry_out(desk, record, incumbent)
    if serving is None:
        raise dg.Failure(f"{desk.spec.group}: no model is in service, and {candidate.trial} is {decision.text}")
    row = ChampionRow.of(serving, record)
    write_champion(desk.spec, desk.tables, row)
    return _result(desk, row, record, records.read())


def _side(candidate: Candidate, version: int | None) -> Side:
    from platform_assets.stores.gate_records import Side

    row = candidate.checkpoint
    return Side(trial=candidate.trial, checkpoint_id=row.checkpoint_id, version=version, folder_url=row.folder_url)


def _challenge(desk: Desk, candidate: Candidate, incumbent: RegisteredVersion | None) -> int:
    """Register the candidate and call it the challenger: a crash from here on leaves the old champion in service."""
    row, name = candidate.checkpoint, desk.spec.group
    if incumbent is not None and incumbent.tags["checkpoint_id"] == row.checkpoint_id:
        return incumbent.version
    tags = {
        "checkpoint_id": row.checkpoint_id,
        "config_hash": row.config_hash,
        "data_version": desk.inputs.records_version,
        "trial": row.trial,
        "dagster_run_id": desk.context.run.run_id,
    }
    version = desk.runs.register(name, row.folder_url, candidate.metrics["mlflow_run_id"], tags)
    desk.runs.set_challenger(name, version)
    return version


def _record(desk: Desk, decision: Decision, side: Side, incumbent: RegisteredVersion | None, **more: Any) -> GateRecord:
    from platform_assets.stores.gate_records import GateRecord

    return GateRecord(
        experiment="/".join(desk.spec.key),
        verdict=decision.verdict,
        reasons=decision.reasons,
        rules=desk.spec.gate.model_dump(mode="json"),
        findings=decision.findings,
        candidate=side,
        incumbent=None if incumbent is None else side_of(incumbent),
        **more,
    )


def side_of(version: RegisteredVersion) -> Side:
    from platform_assets.stores.gate_records import Side

    tags = version.tags
    return Side(
        trial=tags["trial"],
        checkpoint_id=tags["checkpoint_id"],
        version=version.version,
        folder_url=version.folder_url,
    )


def _say(desk: Desk, record: GateRecord) -> None:
    """In the log and on the asset at once: a refusal without an incumbent ends in no materialization."""
    desk.context.log.info(f"{record.candidate.trial}: {record.verdict}: {record.reason}")
    shown: dict[str, Any] = {
        "verdict": record.verdict,
        "reason": record.reason,
        "gate": show.table(findings_table(record)),
    }
    observed = dg.AssetObservation(desk.key("champion"), metadata={**shown, "gate_record": record.id})
    desk.context.log_event(observed)


def _carry_out(desk: Desk, record: GateRecord, incumbent: RegisteredVersion | None) -> RegisteredVersion | None:
    """Move the aliases as the verdict says; the version that serves afterwards."""
    name, version = desk.spec.group, record.candidate.version
    if version is not None and (incumbent is None or version != incumbent.version):
        said = f"{record.verdict}: {record.reason}"[:500]
        desk.runs.tag(name, version, {"gate": said, "gate_record": record.id})
    if record.verdict == "promoted":
        assert version is not None
        desk.runs.set_champion(name, version, instead_of=incumbent.version if incumbent else None)
    elif record.verdict != "held":
        desk.runs.withdraw_challenger(name)
    return desk.runs.champion(name)


def _result(desk: Desk, row: ChampionRow, record: GateRecord, records: list[GateRecord]) -> dg.MaterializeResult[Any]:
    import polars as pl

    waits = row.verdict == "held"
    return dg.MaterializeResult(
        data_version=data_version(row.checkpoint_id),
        metadata={
            **_figures_in_service(desk, row),
            "gate": show.table(findings_table(record)),
            "history": show.table(history_table(records, row.checkpoint_id), max_rows=HISTORY_SHOWN),
            "champion": show.table(pl.DataFrame([{"what": k, "value": str(v)} for k, v in row.model_dump().items()])),
            "checkpoint_id": row.checkpoint_id,
            "version": row.version,
            "folder": dg.MetadataValue.path(row.folder_url),
            "reason": dg.MetadataValue.md(f"**{row.verdict}:** {row.reason}\n\n{row.choice}"),
            "mlflow_run": dg.MetadataValue.url(desk.runs.run_url(row.mlflow_run_id)),
        },
        check_results=[
            dg.AssetCheckResult(
                passed=row.verdict not in ("refused", "held"),
                severity=dg.AssetCheckSeverity.WARN if waits else dg.AssetCheckSeverity.ERROR,
                description=f"{row.candidate} is {row.verdict}: {row.reason}",
                metadata={"verdict": row.verdict, "gate": show.table(findings_table(record))},
            )
        ],
    )


def _figures_in_service(desk: Desk, row: ChampionRow) -> dict[str, Any]:
    """What the model in service reached on its own test images, from its own folder."""
    from platform_assets.vision.evaluation.metrics import Metrics
    from platform_assets.vision.networks.checkpoints import read_label_map
    from platform_assets.vision.views.plots import confusion_matrix

    folder = desk.outputs.at(row.folder_url)
    test = Metrics.model_validate(json.loads(folder.path("metrics.json").read_bytes())["test"])
    names = read_label_map(folder.local_folder("config.json", "labelmap.json")).names
    return {
        "test_top1": test.top1,
        "test_macro_f1": test.macro_f1,
        "test_images": test.images,
        "confusion": show.picture(confusion_matrix(test.confusion, names)),
    }
