"""The decisions of a gate and the approvals given to it, one file each, written once and never changed."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from platform_assets.vision.evaluation.gates import Finding, Verdict

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.stores.tables import Tables

TABLE = "gate_records"
_APPROVALS = "approvals"


class RecordExists(ValueError):
    """A record of that name is there already; records are not changed."""


def now() -> datetime:
    return datetime.now(UTC)


def os_user() -> str:
    """Whose process this is; the number where the system has no name for it, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


class Asked(BaseModel):
    """Who or what asked: `by` is the person, where one is known, `how` the schedule, sensor or command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str | None
    how: str
    dagster_run_id: str | None
    os_user: str = Field(default_factory=os_user)


class Side(BaseModel):
    """A model that was judged, or served at that time. `version` is None of one that was refused before it was registered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trial: str
    checkpoint_id: str
    version: int | None
    folder_url: str


class Approval(BaseModel):
    """A person's word for one checkpoint. The name is as it was typed, `asked.os_user` who typed it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    checkpoint_id: str
    at: datetime = Field(default_factory=now)
    asked: Asked


class GateRecord(BaseModel):
    """One decision: the rules as the YAML had them, what was measured for each, the verdict, and who asked. A record is
    written before `champion` moves, so that no model serves without one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime = Field(default_factory=now)
    experiment: str
    verdict: Verdict
    reasons: tuple[str, ...]
    rules: dict[str, Any]
    findings: tuple[Finding, ...]
    candidate: Side
    incumbent: Side | None
    choice: str
    approvals: tuple[Approval, ...] = ()
    asked: Asked

    @property
    def id(self) -> str:
        return _id(self.at, self.candidate.checkpoint_id, self.asked)

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


class GateRecords:
    """Those of one experiment: a JSON file each under `folder`, and a row each in the table `gate_records`."""

    def __init__(self, folder: Path, tables: Tables, key: Sequence[str]) -> None:
        self.folder, self.tables, self.key = folder, tables, [*key, TABLE]

    def append(self, record: GateRecord) -> None:
        """Raises RecordExists. A row that a crash left out is written by the next call: the JSON is the record."""
        _write_once(self.folder / f"{record.id}.json", record)
        for path in sorted(self.folder.glob("*.json")):
            if not self.tables.exists(self.key, path.stem):
                self.tables.write(self.key, _row(_read(path)), path.stem)

    def read(self) -> list[GateRecord]:
        """In the order of their time."""
        return sorted(map(_read, self.folder.glob("*.json")), key=lambda record: record.at)

    def approve(self, approval: Approval) -> None:
        name = _id(approval.at, approval.checkpoint_id, approval.asked)
        _write_once(self.folder / _APPROVALS / f"{name}.json", approval)

    def approvals(self, checkpoint_id: str, in_service: str | None) -> list[Approval]:
        """Those of a checkpoint that are not used up: given since it last came into service. `in_service` serves now."""
        given = [Approval.model_validate_json(path.read_bytes()) for path in (self.folder / _APPROVALS).glob("*.json")]
        records = self.read()
        undone = cut_off(records, in_service)
        done = [r for r in records if r.verdict == "promoted" and r.id not in undone]
        used = [r.at for r in done if r.candidate.checkpoint_id == checkpoint_id]
        fresh = [a for a in given if a.checkpoint_id == checkpoint_id and all(a.at > at for at in used)]
        return sorted(fresh, key=lambda approval: approval.at)


def rolled_back(records: Sequence[GateRecord], checkpoint_id: str) -> GateRecord | None:
    """The record of the rollback that took this checkpoint out of service, unless it was put back since."""
    for record in reversed(records):
        if record.verdict in ("promoted", "rolled_back") and record.candidate.checkpoint_id == checkpoint_id:
            return None
        if record.verdict == "rolled_back" and record.incumbent and record.incumbent.checkpoint_id == checkpoint_id:
            return record
    return None


def brought_into_service(records: Sequence[GateRecord], checkpoint_id: str) -> GateRecord | None:
    """The last record by which a checkpoint was promoted; None of one that older code promoted."""
    promoted = [r for r in records if r.verdict == "promoted" and r.candidate.checkpoint_id == checkpoint_id]
    return promoted[-1] if promoted else None


def waiting(records: Sequence[GateRecord]) -> list[Side]:
    """The candidates that were held when they were last judged, the latest last."""
    held: dict[str, Side] = {}
    for record in records:
        held.pop(record.candidate.checkpoint_id, None)
        if record.verdict == "held":
            held[record.candidate.checkpoint_id] = record.candidate
    return list(held.values())


def cut_off(records: Sequence[GateRecord], in_service: str | None) -> set[str]:
    """Ids of the decisions that a crash kept from being carried out: what served next was another model.

    `in_service` is the checkpoint that serves now.
    """
    if not records:
        return set()
    served = [record.incumbent.checkpoint_id if record.incumbent else None for record in records[1:]] + [in_service]
    return {
        record.id
        for record, next_served in zip(records, served, strict=True)
        if record.verdict in ("promoted", "rolled_back") and record.candidate.checkpoint_id != next_served
    }


def _id(at: datetime, checkpoint_id: str, asked: Asked) -> str:
    """Sorts by time; two runs that judge in the same microsecond differ in the last part."""
    return f"{at:%Y%m%dT%H%M%S.%fZ}-{checkpoint_id[:8]}-{(asked.dagster_run_id or 'terminal')[:8]}"


def _read(path: Path) -> GateRecord:
    return GateRecord.model_validate_json(path.read_bytes())


def _write_once(path: Path, record: BaseModel) -> None:
    """Whole or not at all, and on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise RecordExists(f"{path}: this decision is recorded already; records are kept as they are")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        whole = Path(folder, path.name)
        with whole.open("w", encoding="utf-8") as file:
            file.write(record.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        whole.replace(path)


def _row(record: GateRecord) -> pl.DataFrame:
    import polars as pl

    before = record.incumbent
    row = {
        "id": record.id,
        "at": record.at,
        "experiment": record.experiment,
        "verdict": record.verdict,
        "reason": record.reason,
        "trial": record.candidate.trial,
        "checkpoint_id": record.candidate.checkpoint_id,
        "version": record.candidate.version,
        "incumbent_trial": before and before.trial,
        "incumbent_checkpoint_id": before and before.checkpoint_id,
        "incumbent_version": before and before.version,
        "approved_by": [approval.name for approval in record.approvals],
        "asked_by": record.asked.by,
        "asked_how": record.asked.how,
        "os_user": record.asked.os_user,
        "dagster_run_id": record.asked.dagster_run_id,
        "rules": [finding.model_dump() for finding in record.findings],
    }
    texts = ("incumbent_trial", "incumbent_checkpoint_id", "asked_by", "dagster_run_id")
    finding = pl.Struct(
        {
            **{"rule": pl.String, "passed": pl.Boolean, "measured": pl.Float64, "threshold": pl.Float64},
            **{"said": pl.String, "otherwise": pl.String},
        }
    )
    types: dict[str, Any] = {
        **dict.fromkeys(texts, pl.String),
        **{"version": pl.Int64, "incumbent_version": pl.Int64, "approved_by": pl.List(pl.String)},
        "rules": pl.List(finding),
    }
    return pl.DataFrame([row], schema_overrides=types)
