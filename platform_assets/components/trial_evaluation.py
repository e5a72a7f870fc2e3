"""The figures of a trial: what metrics writes down, and what the gate computes anew to hold it against."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.desk import Desk
    from platform_assets.stores.outputs import OutputFolder
    from platform_assets.vision.evaluation.calibration import Calibration
    from platform_assets.vision.evaluation.calibration_report import CalibrationReport
    from platform_assets.vision.evaluation.comparability import Comparability
    from platform_assets.vision.evaluation.long_tail import ShotAccuracy
    from platform_assets.vision.evaluation.metrics import Metrics
    from platform_assets.vision.recipes.resolving import ResolvedTrial

METRICS_FILE, CALIBRATION = "metrics.json", "calibration.json"
RULES = "rules"


@dataclass(frozen=True)
class Evaluation:
    """All that follows from the predictions of a trial; `costs` are the rules that it was made with."""

    val: Metrics
    test: Metrics
    shots: ShotAccuracy
    fitted: Calibration
    certainty: CalibrationReport
    costs: dict[str, dict[str, float]] | None

    @property
    def documents(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The sections of each file that it is written to."""
        metrics = {"val": self.val, "test": self.test, "test_shots": self.shots}
        certainty = {"calibration": self.fitted, "on_test": self.certainty}
        return {
            METRICS_FILE: {
                **{name: each.model_dump(mode="json") for name, each in metrics.items()},
                RULES: {"costs": self.costs},
            },
            CALIBRATION: {name: each.model_dump(mode="json") for name, each in certainty.items()},
        }


def evaluation_of(desk: Desk, trial: ResolvedTrial, frame: pl.DataFrame) -> Evaluation:
    """By the rules of the YAML as it is now."""
    from platform_assets.vision.evaluation.calibration import calibrate
    from platform_assets.vision.evaluation.calibration_report import report_of
    from platform_assets.vision.evaluation.long_tail import shots_of
    from platform_assets.vision.evaluation.predictions import compute_metrics, logits_and_truth

    records, label_map = desk.inputs.records_of(trial), desk.inputs.label_map
    rules = desk.inputs.rules_of(records)
    val, test = (compute_metrics(frame, label_map, part, rules=rules) for part in ("val", "test"))
    fitted = calibrate(*logits_and_truth(frame, "val"), desk.spec.uncertainty)
    return Evaluation(
        val=val,
        test=test,
        shots=shots_of(test, records, label_map),
        fitted=fitted,
        certainty=report_of(fitted, frame),
        costs=desk.spec.costs,
    )


def metrics_row(
    desk: Desk,
    trial: ResolvedTrial,
    found: Evaluation,
    folder: OutputFolder,
    *,
    parameters: int,
    metric_code: str,
    spectral_alpha: float | None = None,
) -> pl.DataFrame:
    """The row of the metrics table, but for the MLflow run; `parameters` are those of the weights in the folder."""
    from platform_assets.vision.evaluation.comparison import trial_row

    return trial_row(
        trial,
        val=found.val,
        test=found.test,
        shots=found.shots,
        certainty=found.certainty,
        comparability=_comparability(desk, found, folder, metric_code),
        checkpoint_id=folder.manifest().checkpoint_id,
        parameters=parameters,
        train_seconds=json.loads(folder.path("fit.json").read_bytes())["train_seconds"],
        spectral_alpha=spectral_alpha,
    )


def _comparability(desk: Desk, found: Evaluation, folder: OutputFolder, metric_code: str) -> Comparability:
    """By what the checkpoint itself was fitted on, which need not be the version at hand."""
    import polars as pl

    from platform_assets.vision.evaluation.comparability import Comparability, fixed_preprocessing, split_sha256

    return Comparability(
        dataset_version=json.loads(folder.path("fit.json").read_bytes())["records_version"],
        label_map_checksum=found.test.label_map_checksum,
        split_sha256=split_sha256(pl.read_parquet(folder.path("parts.parquet"))),
        val_ids_sha256=found.val.image_ids_sha256,
        test_ids_sha256=found.test.image_ids_sha256,
        protocol=fixed_preprocessing(desk.inputs.protocol),
        metric_code=metric_code,
    )
