"""Gate records: written once, whole, in both forms; approvals of one checkpoint, used once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from platform_assets.stores.analytics import Analytics
from platform_assets.stores.gate_records import (
    Approval,
    Asked,
    GateRecord,
    GateRecords,
    RecordExists,
    Side,
    brought_into_service,
    cut_off,
    rolled_back,
    waiting,
)
from platform_assets.stores.run_table import RunTable
from platform_assets.stores.tables import Tables
from platform_assets.vision.evaluation.gates import Finding

START = datetime(2026, 11, 30, 3, 0, tzinfo=UTC)
ASKED = Asked(by="ada", how="kestrel promote", dagster_run_id="0b7c" * 8)


def side(checkpoint: str, version: int | None = 1) -> Side:
    return Side(trial="cnn__s0", checkpoint_id=checkpoint * 16, version=version, folder_url=f"/outputs/{checkpoint}")


def record(minute: int, verdict: Any, candidate: str, incumbent: str | None, **changes: Any) -> GateRecord:
    finding = Finding(rule="minimum", passed=True, measured=0.9, threshold=0.8, said="too low")
    plain: dict[str, Any] = {
        "at": START + timedelta(minutes=minute),
        "experiment": "photos/first",
        "verdict": verdict,
        "reasons": ("because",),
        "rules": {"minimum": 0.8},
        "findings": (finding,),
        "candidate": side(candidate),
        "incumbent": side(incumbent) if incumbent else None,
        "choice": "best on val",
        "asked": ASKED,
    }
    return GateRecord(**{**plain, **changes})


def asked(tables: Path, query: str) -> list[tuple[object, ...]]:
    """The rows that `kestrel sql` would print."""
    with Analytics(tables, RunTable(f"sqlite:///{tables / 'none.db'}", tables.parent / "cache")).answer(
        query
    ) as answer:
        return list(answer.fetchall())


@pytest.fixture
def records(tmp_path: Path) -> GateRecords:
    return GateRecords(tmp_path / "gate_records/photos/first", Tables(tmp_path / "tables"), ["photos", "first"])


def test_append__each_decision_is_a_file_and_a_row(records: GateRecords) -> None:
    refused = record(1, "refused", "b", "a", reasons=("one", "two"))
    for each in (refused, record(0, "promoted", "a", None)):
        records.append(each)
    assert [each.verdict for each in records.read()] == ["promoted", "refused"]
    assert records.read()[1] == refused
    rows = asked(
        records.tables.root,
        "select trial, verdict, reason, version, incumbent_checkpoint_id, asked_by, rules[1].measured "
        'from gate_records order by "at"',
    )
    assert rows == [
        ("cnn__s0", "promoted", "because", 1, None, "ada", 0.9),
        ("cnn__s0", "refused", "one; two", 1, "a" * 16, "ada", 0.9),
    ]


def test_append__a_decision_is_not_rewritten(records: GateRecords) -> None:
    records.append(record(0, "refused", "a", None))
    with pytest.raises(RecordExists, match="records are kept as they are"):
        records.append(record(0, "promoted", "a", None))
    assert [each.verdict for each in records.read()] == ["refused"]


def test_append__a_row_that_a_crash_left_out_is_written_by_the_next(records: GateRecords) -> None:
    first = record(0, "promoted", "a", None)
    records.append(first)
    (records.tables.root / "photos/first/gate_records" / f"{first.id}.parquet").unlink()
    records.append(record(1, "kept", "b", "a"))
    assert records.tables.read_all(records.key)["verdict"].to_list() == ["promoted", "kept"]


def approve(records: GateRecords, minute: int, checkpoint: str, name: str = "Ada Lovelace") -> None:
    at = START + timedelta(minutes=minute)
    records.approve(Approval(name=name, checkpoint_id=checkpoint * 16, at=at, asked=ASKED))


def names(records: GateRecords, checkpoint: str, in_service: str | None) -> list[str]:
    found = records.approvals(checkpoint * 16, in_service and in_service * 16)
    return [approval.name for approval in found]


def test_approvals__are_of_one_checkpoint_and_used_up_when_it_serves(records: GateRecords) -> None:
    approve(records, 0, "b")
    assert names(records, "b", "a") == ["Ada Lovelace"]
    assert names(records, "c", "a") == []
    records.append(record(1, "kept", "b", "a"))
    assert names(records, "b", "a") == ["Ada Lovelace"], "a judgement that promotes nothing uses no approval"
    records.append(record(2, "promoted", "b", "a"))
    assert names(records, "b", "b") == []
    records.append(record(3, "rolled_back", "a", "b"))
    assert names(records, "b", "a") == []
    approve(records, 4, "b", "Grace Hopper")
    assert names(records, "b", "a") == ["Grace Hopper"]


def test_approvals__one_whose_promotion_was_cut_off_still_counts(records: GateRecords) -> None:
    approve(records, 0, "b")
    records.append(record(1, "promoted", "b", "a"))
    assert names(records, "b", "a") == ["Ada Lovelace"]


def test_waiting__is_what_was_held_when_it_was_last_judged() -> None:
    made = [record(0, "held", "b", "a"), record(1, "held", "c", "a"), record(2, "promoted", "b", "a")]
    assert [each.checkpoint_id[0] for each in waiting(made)] == ["c"]
    assert waiting([]) == []


def test_rolled_back__until_it_serves_again() -> None:
    made = [record(0, "promoted", "a", None), record(1, "promoted", "b", "a"), record(2, "rolled_back", "a", "b")]
    found = rolled_back(made, "b" * 16)
    assert found is not None
    assert found.at == made[2].at
    assert rolled_back(made, "a" * 16) is None
    assert rolled_back([*made, record(3, "kept", "b", "a")], "b" * 16) is not None
    assert rolled_back([*made, record(3, "promoted", "b", "a")], "b" * 16) is None


def test_cut_off__a_decision_after_which_another_model_served() -> None:
    made = [record(0, "promoted", "a", None), record(1, "promoted", "b", "a"), record(2, "kept", "b", "a")]
    assert cut_off(made, "a" * 16) == {made[1].id}
    assert cut_off(made[:2], "b" * 16) == set()
    assert cut_off(made[:2], "a" * 16) == {made[1].id}
    assert cut_off([], None) == set()


def test_brought_into_service__is_the_promotion_of_what_serves_and_not_the_last_decision() -> None:
    """The model card of a said of how b was chosen, and that b was refused."""
    decisions = [
        record(0, "promoted", "a", None, choice="a is best"),
        record(1, "refused", "b", "a", choice="b is best"),
    ]
    found = brought_into_service(decisions, "a" * 16)
    assert found is not None
    assert (found.choice, found.verdict) == ("a is best", "promoted")
    assert brought_into_service(decisions, "b" * 16) is None
    back = [*decisions, record(2, "promoted", "b", "a"), record(3, "rolled_back", "a", "b")]
    assert brought_into_service(back, "a" * 16) == decisions[0]
