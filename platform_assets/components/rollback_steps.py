"""The way back: the champion before serves again, without a run, a training to wait for or a judgement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components.champion_steps import ChampionRow, side_of, write_champion
from platform_assets.components.specs import data_version

if TYPE_CHECKING:
    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.stores.gate_records import Asked, GateRecord, GateRecords
    from platform_assets.stores.outputs import Outputs
    from platform_assets.stores.runs import Runs
    from platform_assets.stores.tables import Tables


class NothingToGoBackTo(ValueError):
    """No model serves, none served before it, or its files are not whole."""


@dataclass(frozen=True)
class Places:
    """What a rollback touches beside Dagster's event log."""

    runs: Runs
    outputs: Outputs
    tables: Tables
    records: GateRecords


def roll_back(spec: ExperimentSpec, places: Places, asked: Asked, instance: dg.DagsterInstance) -> GateRecord:
    """Record it, move the alias, and say so on the asset. The version that leaves is the next to go back to.

    The one that serves again passed the gate before; its files must still be whole. Raises NothingToGoBackTo.
    """
    from platform_assets.stores.gate_records import GateRecord

    name, experiment = spec.group, "/".join(spec.key)
    leaving, back = places.runs.champion(name), places.runs.previous_champion(name)
    if leaving is None:
        raise NothingToGoBackTo(f"{experiment}: no model is in service; `kestrel promote {experiment}` chooses one")
    if back is None:
        raise NothingToGoBackTo(f"{experiment}: version {leaving.version} is the first that serves, none was before it")
    if problems := places.outputs.at(back.folder_url).verify():
        raise NothingToGoBackTo(
            f"{experiment}: version {back.version} cannot serve again, damaged file: {'; '.join(problems)}"
        )
    record = GateRecord(
        experiment=experiment,
        verdict="rolled_back",
        reasons=(f"version {leaving.version} was taken out of service, version {back.version} serves again",),
        rules=spec.gate.model_dump(mode="json"),
        findings=(),
        candidate=side_of(back),
        incumbent=side_of(leaving),
        choice="the champion before",
        asked=asked,
    )
    places.records.append(record)
    places.runs.set_champion(name, back.version, instead_of=leaving.version)
    row = ChampionRow.of(back, record)
    write_champion(spec, places.tables, row)
    version = {"dagster/data_version": data_version(row.checkpoint_id).value}
    shown: dict[str, Any] = {"reason": record.reason, "version": back.version, "gate_record": record.id}
    key = [*spec.key, "champion"]
    instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata=shown, tags=version))
    return record
