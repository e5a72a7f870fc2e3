"""Gate records as rows that people read, in the UI and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.stores.gate_records import Asked, GateRecord, Side


def findings_table(record: GateRecord) -> pl.DataFrame:
    """One row a rule: measured, threshold, and what is wrong where it did not pass."""
    import polars as pl

    rows = [
        (each.rule, "yes" if each.passed else "no", each.measured, each.threshold, "" if each.passed else each.said)
        for each in record.findings
    ]
    kinds = {"passed": pl.String, "measured": pl.Float64, "threshold": pl.Float64, "said": pl.String}
    return pl.DataFrame(rows, {"rule": pl.String, **kinds}, orient="row")


def history_table(records: Sequence[GateRecord], in_service: str | None) -> pl.DataFrame:
    """One row a decision, the newest first, all as text. `in_service` is the checkpoint that serves now."""
    import polars as pl

    from platform_assets.stores.gate_records import cut_off

    undone = cut_off(records, in_service)
    rows = [
        {
            "at (UTC)": f"{record.at:%Y-%m-%d %H:%M:%S}",
            "verdict": f"{record.verdict}, cut off" if record.id in undone else record.verdict,
            "candidate": _side(record.candidate),
            "incumbent": _side(record.incumbent),
            "asked": _asked(record.asked),
            "approved by": ", ".join(approval.name for approval in record.approvals) or "-",
            "record": record.id,
            "reason": record.reason,
        }
        for record in reversed(records)
    ]
    return pl.DataFrame(rows)


def _side(side: Side | None) -> str:
    if side is None:
        return "-"
    version = f" (version {side.version})" if side.version else ""
    return f"{side.trial} {side.checkpoint_id}{version}"


def _asked(asked: Asked) -> str:
    return f"{asked.by or asked.os_user}, {asked.how}"
