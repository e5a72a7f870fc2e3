"""The facts of a model card, gathered from the champion's own folder and the leaderboard."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from platform_assets.components.champion_steps import ChampionRow
from platform_assets.components.delivery_steps import LATENCY, PARITY, certainty_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from platform_assets.components.inputs import Inputs
    from platform_assets.stores.gate_records import GateRecord
    from platform_assets.stores.outputs import OutputFolder
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.cards.model_card import ModelCardFacts


def model_card_facts(
    inputs: Inputs, tables: Tables, folder: OutputFolder, row: ChampionRow, records: Sequence[GateRecord]
) -> ModelCardFacts:
    """Everything is read from the folder that is in service, which need not be of the newest dataset version.

    `records` are the decisions of the gate: `row` says what it decided last, which may be of a candidate that stayed out.
    """
    import polars as pl

    from platform_assets.stores.gate_records import brought_into_service
    from platform_assets.vision.cards.model_card import ModelCardFacts, Provenance
    from platform_assets.vision.evaluation.metrics import Metrics
    from platform_assets.vision.networks.checkpoints import read_label_map, read_trial
    from platform_assets.vision.networks.exporting import ParityReport

    local = folder.local_folder("config.json", "labelmap.json")
    metrics = json.loads(folder.path("metrics.json").read_bytes())
    fit = json.loads(folder.path("fit.json").read_bytes())
    parts = pl.read_parquet(folder.path("parts.parquet"))
    promoted = brought_into_service(records, row.checkpoint_id) or row
    return ModelCardFacts(
        name=row.model,
        version=row.version,
        licence=inputs.spec.licence,
        intended_use=inputs.spec.intended_use,
        limits=inputs.spec.limits,
        dataset_description=inputs.dataset.description,
        data_licence=inputs.dataset.licence,
        data_citation=inputs.dataset.citation,
        dataset_version=fit["records_version"],
        train_images=parts.filter(pl.col("split") == "train").height,
        label_map=read_label_map(local),
        trial=read_trial(local),
        checkpoint_id=row.checkpoint_id,
        parameters=fit["parameters"],
        train_seconds=fit["train_seconds"],
        device=fit["device"],
        val=Metrics.model_validate(metrics["val"]),
        test=Metrics.model_validate(metrics["test"]),
        certainty=certainty_of(folder)[1],
        leaderboard=tables.read([*inputs.spec.key, "leaderboard"]),
        choice=promoted.choice,
        gate=f"{promoted.verdict}: {promoted.reason}",
        parity=ParityReport.model_validate(json.loads(folder.path(PARITY).read_bytes())["parity"]),
        latency=pl.read_parquet(folder.path(LATENCY)),
        provenance=Provenance.model_validate(json.loads(folder.path("env.json").read_bytes())),
    )
