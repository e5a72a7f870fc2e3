"""The body of the champion asset: choose on val, compare with the incumbent, pass the gate, move the alias."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from platform_assets.components import metadata as show
from platform_assets.components.leaderboard_steps import metrics_rows
from platform_assets.components.specs import data_version

if TYPE_CHECKING:
    from platform_assets.components.desk import Desk
    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.stores.runs import RegisteredVersion
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.gates import Comparison, Decision

CHAMPION = (
    "The checkpoint in service, chosen on val and let through by the gate on test, with the reason; registered in MLflow "
    "under the alias champion."
)


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


def gate_check(spec: ExperimentSpec) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        "champion_passes_its_gate",
        asset=[*spec.key, "champion"],
        description="The candidate passes the gate, or the incumbent stays because the candidate is not better.",
        blocking=True,
    )


def read_champion(spec: ExperimentSpec, tables: Tables) -> ChampionRow:
    return ChampionRow(**tables.read([*spec.key, "champion"]).row(0, named=True))


def champion(desk: Desk) -> dg.MaterializeResult[Any]:
    """Raises Failure when the gate refuses the candidate and no model is in service."""
    import polars as pl

    from platform_assets.vision.comparison import choose_champion

    rows = metrics_rows(desk.spec, desk.tables)
    chosen = choose_champion(rows, metric=desk.spec.metric)
    metrics = rows.row(by_predicate=pl.col("trial") == chosen.trial, named=True)
    incumbent = desk.runs.champion(desk.spec.group)
    decision = _decide(desk, metrics, incumbent)
    desk.context.log.info(f"{chosen.trial}: {decision.text}")
    if decision.verdict == "promoted":
        incumbent = _promote(desk, metrics, decision)
    if incumbent is None:
        raise dg.Failure(f"{desk.spec.group}: no model is in service, and {chosen.trial} is {decision.text}")
    row = ChampionRow(
        model=incumbent.name,
        version=incumbent.version,
        checkpoint_id=incumbent.tags["checkpoint_id"],
        folder_url=incumbent.folder_url,
        mlflow_run_id=incumbent.run_id,
        candidate=chosen.trial,
        candidate_checkpoint_id=metrics["checkpoint_id"],
        choice=chosen.reason,
        verdict=decision.verdict,
        reason="; ".join(decision.reasons),
    )
    desk.tables.write(desk.key("champion"), pl.DataFrame([row.model_dump()]))
    return _result(desk, row)


def _decide(desk: Desk, metrics: dict[str, Any], incumbent: RegisteredVersion | None) -> Decision:
    from platform_assets.vision.gates import decide

    same = incumbent is not None and incumbent.tags["checkpoint_id"] == metrics["checkpoint_id"]
    return decide(
        desk.spec.gate,
        metric=desk.spec.metric,
        value=metrics[f"test_{desk.spec.metric}"],
        faults=(*_damage(desk, metrics["trial"]), *_unstated(desk)),
        same_checkpoint=same,
        comparison=None if incumbent is None or same else _compare(desk, metrics["trial"], incumbent),
    )


def _damage(desk: Desk, trial: str) -> list[str]:
    return [f"damaged file: {problem}" for problem in desk.folder(trial).verify()]


def _unstated(desk: Desk) -> list[str]:
    """What must be stated of the licence of the data before a model of it may serve."""
    from platform_assets.vision.cards.licences import missing

    dataset = desk.inputs.dataset
    return [f"the licence of dataset {dataset.name} is not known: licence.{said}" for said in missing(dataset.licence)]


def _compare(desk: Desk, trial: str, incumbent: RegisteredVersion) -> Comparison:
    """Both on the challenger's test images that the incumbent was not fitted on, the incumbent predicting them anew."""
    import polars as pl

    from platform_assets.vision.checkpoints import CLASSIFIER_FILES, load_classifier
    from platform_assets.vision.evaluation import compute_metrics, predict, predictions_frame
    from platform_assets.vision.gates import Comparison

    folder = desk.outputs.at(incumbent.folder_url)
    classifier = load_classifier(folder.local_folder(*CLASSIFIER_FILES), expect_label_map=desk.inputs.label_map)
    fitted_on = pl.read_parquet(folder.path("parts.parquet")).filter(pl.col("split") == "train")["image_id"]
    fresh = (pl.col("part") == "test") & ~pl.col("image_id").is_in(fitted_on.implode())
    challenger = desk.tables.read(desk.key("predictions"), trial).filter(fresh)
    boxes = desk.inputs.records.select("path", pl.col("^box$"))  # if there are any: an incumbent may look at them alone
    records = challenger.select("image_id", "path", "part", label="truth").join(boxes, on="path", how="left")
    device = desk.compute.choose(desk.context.log).device
    logits = predict(classifier, desk.pixels.of(records, classifier.preprocessing), device=device)
    theirs = compute_metrics(predictions_frame(records, logits, desk.inputs.label_map), desk.inputs.label_map, "test")
    ours = compute_metrics(challenger, desk.inputs.label_map, "test")
    return Comparison(
        challenger_ids=ours.image_ids_sha256,
        incumbent_ids=theirs.image_ids_sha256,
        images=ours.images,
        challenger=getattr(ours, desk.spec.metric),
        incumbent=getattr(theirs, desk.spec.metric),
    )


def _promote(desk: Desk, metrics: dict[str, Any], decision: Decision) -> RegisteredVersion | None:
    """Register first, then move the alias: a crash in between leaves the old champion in service."""
    row, name = desk.row(metrics["trial"]), desk.spec.group
    tags = {
        "checkpoint_id": row.checkpoint_id,
        "config_hash": row.config_hash,
        "data_version": desk.inputs.records_version,
        "trial": row.trial,
        "gate": decision.text[:500],
        "dagster_run_id": desk.context.run.run_id,
    }
    version = desk.runs.register(name, row.folder_url, metrics["mlflow_run_id"], tags)
    desk.runs.set_champion(name, version)
    return desk.runs.champion(name)


def _result(desk: Desk, row: ChampionRow) -> dg.MaterializeResult[Any]:
    import polars as pl

    passed = row.verdict != "refused"
    figures = _figures_in_service(desk, row)
    return dg.MaterializeResult(
        data_version=data_version(row.checkpoint_id),
        metadata={
            **figures,
            "champion": show.table(pl.DataFrame([{"what": k, "value": str(v)} for k, v in row.model_dump().items()])),
            "checkpoint_id": row.checkpoint_id,
            "version": row.version,
            "folder": dg.MetadataValue.path(row.folder_url),
            "reason": dg.MetadataValue.md(f"**{row.verdict}:** {row.reason}\n\n{row.choice}"),
            "mlflow_run": dg.MetadataValue.url(desk.runs.run_url(row.mlflow_run_id)),
        },
        check_results=[
            dg.AssetCheckResult(
                passed=passed,
                description=f"{row.candidate} is {row.verdict}: {row.reason}",
                metadata={
                    "verdict": row.verdict,
                    "minimum": desk.spec.gate.minimum,
                    "max_regression": desk.spec.gate.max_regression,
                },
            )
        ],
    )


def _figures_in_service(desk: Desk, row: ChampionRow) -> dict[str, Any]:
    """What the model in service reached on its own test images, from its own folder."""
    from platform_assets.vision.checkpoints import read_label_map
    from platform_assets.vision.evaluation import Metrics
    from platform_assets.vision.plots import confusion_matrix

    folder = desk.outputs.at(row.folder_url)
    test = Metrics.model_validate(json.loads(folder.path("metrics.json").read_bytes())["test"])
    names = read_label_map(folder.local_folder("config.json", "labelmap.json")).names
    return {
        "test_top1": test.top1,
        "test_macro_f1": test.macro_f1,
        "test_images": test.images,
        "confusion": show.picture(confusion_matrix(test.confusion, names)),
    }
