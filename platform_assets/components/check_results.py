"""What the last evaluations of checks said of what lies there now, as Dagster's event log has them."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES


def red_checks(instance: dg.DagsterInstance, specs: Iterable[dg.AssetCheckSpec]) -> list[str]:
    """The blocking checks that are not green on the current materialization, each with the cure.

    A check that was never evaluated, or not since its asset was materialized, is not green.
    """
    found = [(spec, _fault(instance, spec)) for spec in specs if spec.blocking]
    return [f"{_name(spec)} {fault}" for spec, fault in found if fault]


def last_evaluation(
    instance: dg.DagsterInstance, key: dg.AssetCheckKey
) -> tuple[dg.EventLogEntry, dg.AssetCheckEvaluation] | None:
    """The last one that came to an end, and its event; None where there is none."""
    # The public call gives planned evaluations too: that of a run which waits, or was killed, says nothing yet.
    records = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
    )
    if not records or records[0].event is None:
        return None
    evaluation = records[0].evaluation
    assert evaluation is not None
    return records[0].event, evaluation


def _fault(instance: dg.DagsterInstance, spec: dg.AssetCheckSpec) -> str | None:
    asset, found = spec.asset_key.to_user_string(), last_evaluation(instance, spec.key)
    made = instance.get_latest_materialization_event(spec.asset_key)
    if found is None:
        return f"was never evaluated in this Dagster instance; materialize {asset} again"
    event, evaluation = found
    if made is not None and event.run_id != made.run_id and event.timestamp < made.timestamp:
        return f"was not evaluated since {asset} was materialized; materialize it again, or execute the check"
    if evaluation.passed or evaluation.severity is not dg.AssetCheckSeverity.ERROR:
        return None
    return f"failed: {evaluation.description or 'see it in the UI'}; mend what it names and materialize {asset} again"


def _name(spec: dg.AssetCheckSpec) -> str:
    return f"check {spec.name} of {spec.asset_key.to_user_string()}"
