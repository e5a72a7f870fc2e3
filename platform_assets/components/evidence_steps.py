"""The evaluation of one trial, verified from its own files before the gate believes a figure of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from platform_assets.components.check_results import red_checks
from platform_assets.components.metadata import every_two_seconds
from platform_assets.components.quality_steps import near_duplicate_check
from platform_assets.components.records_steps import record_checks
from platform_assets.components.trial_checks import checks as trial_checks
from platform_assets.components.trial_evaluation import METRICS_FILE, evaluation_of, metrics_row

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.desk import CheckpointRow, Desk
    from platform_assets.stores.outputs import OutputFolder
    from platform_assets.vision.evaluation.gates import Finding
    from platform_assets.vision.evaluation.metrics import Metrics
    from platform_assets.vision.networks.models import Classifier

PREDICTIONS_FILE = "predictions.parquet"
REPREDICTED_IMAGES = 1_000  # of 1 % that were edited one is among them but once in 20,000 times
PREDICTED_AT_ONCE = 128
JUMPING_MODES = ("knn", "lightgbm", "ensemble")


@dataclass(frozen=True)
class Candidate:
    """The trial that is judged, its row of the metrics table, and why it is this one."""

    trial: str
    metrics: dict[str, Any]
    checkpoint: CheckpointRow
    choice: str


@dataclass(frozen=True)
class Evidence:
    """What is computed anew from the predictions in the trial's folder. `ece` is that of test after temperature scaling."""

    predictions: pl.DataFrame
    test: Metrics
    ece: float


def verify(desk: Desk, candidate: Candidate) -> tuple[Evidence | None, list[Finding]]:
    """Rule by rule, each on what the one before it vouches for; no evidence where one is broken."""
    from platform_assets.vision.evaluation.gates import none_of

    evidence, findings = None, []
    for rule, faults, found in _steps(desk, candidate):
        findings.append(none_of(rule, faults))
        evidence = found
        if faults:
            return None, findings
    return evidence, findings


def unstated_licence(desk: Desk) -> list[str]:
    """What must be stated of the licence of the data before a model of it may serve."""
    from platform_assets.vision.cards.licences import missing

    dataset = desk.inputs.dataset
    return [f"the licence of dataset {dataset.name} is not known: licence.{said}" for said in missing(dataset.licence)]


def checks_not_green(desk: Desk) -> list[str]:
    """Blocking checks of the records and of the trials whose last evaluation does not stand for what lies there now."""
    dataset = desk.inputs.dataset
    specs = [*record_checks(dataset.name), near_duplicate_check(dataset), *trial_checks(desk.spec)]
    return red_checks(desk.context.instance, specs)


def _steps(desk: Desk, candidate: Candidate) -> Iterator[tuple[str, list[str], Evidence | None]]:
    folder = desk.outputs.at(candidate.checkpoint.folder_url)
    yield "files_match_manifest", [f"damaged file: {problem}" for problem in folder.verify()], None
    yield "evaluation_is_current", _stale(desk, candidate, folder), None
    predictions = _read(folder, PREDICTIONS_FILE)
    yield "split_is_that_of_the_records", _split(desk, candidate, folder, predictions), None
    classifier = classifier_of(desk, candidate.checkpoint.folder_url)
    yield "predictions_follow_from_weights", _repredicted(desk, candidate, classifier, predictions), None
    faults, evidence = _recomputed(desk, candidate, folder, predictions, classifier.parameter_count)
    yield "figures_follow_from_predictions", faults, evidence


def _stale(desk: Desk, candidate: Candidate, folder: OutputFolder) -> list[str]:
    """Whether checkpoint, predictions and metrics are of one another, of the YAML and of the records as they are now."""
    row, trial = candidate.checkpoint, candidate.trial
    faults = []
    if (evaluated := candidate.metrics["checkpoint_id"]) != row.checkpoint_id:
        faults.append(f"its metrics are of checkpoint {evaluated}, the trial's is {row.checkpoint_id} now")
    if absent := [name for name in (PREDICTIONS_FILE, METRICS_FILE) if name not in folder.manifest().files]:
        faults.append(f"checkpoint {row.checkpoint_id} has no {' and no '.join(absent)}")
    fitted_on = json.loads(folder.path("fit.json").read_bytes())["records_version"]
    if fitted_on != desk.inputs.records_version:
        faults.append(f"it was fitted and evaluated on records {fitted_on}, now they are {desk.inputs.records_version}")
    if desk.inputs.known_config_hash(trial) != row.config_hash:
        faults.append("its YAML, or what it was made of, changed since it was trained")
    again = f"materialize trial {trial} again (checkpoint, predictions, metrics)"
    return [f"stale evaluation: {fault}; {again}" for fault in faults]


def _read(folder: OutputFolder, name: str) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(folder.path(name))


def _split(desk: Desk, candidate: Candidate, folder: OutputFolder, predictions: pl.DataFrame) -> list[str]:
    from platform_assets.vision.evaluation.gate_evidence import split_faults

    records = desk.inputs.records_of(desk.inputs.trial(candidate.trial))
    fitted_on = _read(folder, "parts.parquet").filter(split="train")["image_id"]
    return [f"differently split evaluation: {fault}" for fault in split_faults(predictions, records, fitted_on)]


def _repredicted(desk: Desk, candidate: Candidate, classifier: Classifier, predictions: pl.DataFrame) -> list[str]:
    """What the weights themselves say of the images: of all, or of so many that nobody knows beforehand."""
    from platform_assets.vision.evaluation.gate_evidence import prediction_faults

    few = predictions.sample(REPREDICTED_IMAGES) if predictions.height > REPREDICTED_IMAGES else predictions
    again = predictions_by(desk, classifier, few)
    mode = desk.inputs.trial(candidate.trial).mode  # the metrics row is not verified yet
    cure = f"materialize predictions and metrics of trial {candidate.trial} again"
    faults = prediction_faults(few, again, jumps=mode in JUMPING_MODES)
    return [f"edited or outdated predictions: {fault}; {cure}" for fault in faults]


def _recomputed(
    desk: Desk, candidate: Candidate, folder: OutputFolder, predictions: pl.DataFrame, parameters: int
) -> tuple[list[str], Evidence]:
    """Every figure that is written down, against the predictions and the weights of the folder.

    The spectral alpha is advice and takes longer than all else; the code of the metrics is what the row says, as it is judged
    by its figures.
    """
    from platform_assets.vision.evaluation.gate_evidence import file_faults, row_faults

    trial, said = desk.inputs.trial(candidate.trial), candidate.metrics
    found = evaluation_of(desk, trial, predictions)
    code, alpha = said.get("metric_code") or "", said.get("spectral_alpha")
    row = metrics_row(desk, trial, found, folder, parameters=parameters, metric_code=code, spectral_alpha=alpha)
    faults = row_faults(said, row.row(0, named=True))
    for name, document in found.documents.items():
        if name == METRICS_FILE or name in folder.manifest().files:
            faults += file_faults(name, json.loads(folder.path(name).read_bytes()), document)
    if not predictions.equals(desk.tables.read(desk.key("predictions"), candidate.trial)):
        faults.append(f"the table of predictions is not {PREDICTIONS_FILE} of the trial's folder")
    again = f"materialize predictions and metrics of trial {candidate.trial} again"
    return [f"edited or outdated figures: {fault}; {again}" for fault in faults], Evidence(
        predictions, found.test, found.certainty.ece
    )


def classifier_of(desk: Desk, folder_url: str) -> Classifier:
    from platform_assets.vision.networks.checkpoints import CLASSIFIER_FILES, load_classifier

    local = desk.outputs.at(folder_url).local_folder(*CLASSIFIER_FILES)
    return load_classifier(local, expect_label_map=desk.inputs.label_map)


def predictions_by(desk: Desk, classifier: Classifier, rows: pl.DataFrame) -> pl.DataFrame:
    """The predictions of another classifier on the images of these predictions."""
    import numpy as np
    import polars as pl

    from platform_assets.vision.evaluation.predictions import predictions_frame
    from platform_assets.vision.networks.inference import predict

    boxes = desk.inputs.records.select("path", pl.col("^box$"))  # if there are any: an incumbent may look at them alone
    records = rows.select("image_id", "path", "part", label="truth").join(boxes, on="path", how="left")
    device = desk.compute.choose(desk.context.log).device
    images_nchw, logits = desk.pixels.of(records, classifier.preprocessing), []
    tell = every_two_seconds(desk.context.log.info, "predicting for the gate")
    for start in range(0, records.height, PREDICTED_AT_ONCE):
        tell(start, records.height)
        logits.append(predict(classifier, images_nchw[start : start + PREDICTED_AT_ONCE], device=device))
    tell(records.height, records.height)
    return predictions_frame(records, np.concatenate(logits), desk.inputs.label_map)
