"""The trials of a run one after the other, and the bodies of predictions and metrics."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.checkpoint_steps import FITTING, checkpoint, trial_vectors
from platform_assets.components.desk import Desk
from platform_assets.components.specs import code_version, data_version
from platform_assets.components.tracking import ended_as_it_ends, record
from platform_assets.components.trial_checks import CHECKS
from platform_assets.components.view_steps import add_evaluation_log, add_views
from platform_assets.vision.modes import FROZEN_MODES

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray
    from pydantic import BaseModel

    from platform_assets.vision.calibration import Calibration, CalibrationReport
    from platform_assets.vision.evaluation import Metrics
    from platform_assets.vision.models import Classifier
    from platform_assets.vision.recipes import ResolvedTrial

PREDICTIONS = "One row per evaluated image (val and test) of a trial: logits, probabilities, prediction, truth."
METRICS = (
    "One row a trial: top-1, top-5, macro-F1, loss and ECE on val and test with intervals, per-class table and confusion "
    "matrix; its MLflow run."
)
CALIBRATION = "calibration.json"
EVALUATION = ("vision.evaluation", "vision.calibration", "vision.network_fitting")


def trials(desk: Desk) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Each trial to its end before the next, so that a stopped run leaves whole trials behind it."""
    selected = {key.path[-1] for key in desk.context.selected_asset_keys}
    if not selected:
        yield from _checks_alone(desk)
        return
    partitions = desk.context.partition_keys
    with show.stops_cleanly("Finished trials and epochs are kept."):
        for number, partition in enumerate(partitions, 1):
            trial = desk.inputs.trial(partition)
            desk.context.log.info(f"trial {number} of {len(partitions)}: {partition}")
            with ended_as_it_ends(desk, trial):
                for name, step in STEPS.items():
                    if name in selected:
                        step(desk, trial)
    configs = [desk.inputs.known_config_hash(partition) for partition in desk.spec.trials]
    version = data_version(
        desk.inputs.records_version,
        code_version(*FITTING, *EVALUATION),
        desk.spec.uncertainty.model_dump_json(),
        *configs,
    )
    for name in STEPS:
        if name in selected:
            yield dg.MaterializeResult(
                desk.key(name),
                data_version=version,
                metadata={"trials": show.table(_trials_so_far(desk))} if name == "metrics" else {},
                check_results=[check(desk, partitions) for check in CHECKS.get(name, {}).values()],
            )


def _checks_alone(desk: Desk) -> Iterator[dg.AssetCheckResult]:
    """The checks over every trial there is, as the UI's Execute asks for them, without a partition."""
    done = [trial for trial in desk.spec.trials if desk.tables.exists(desk.key("metrics"), trial)]
    wanted = {key.name for key in desk.context.selected_asset_check_keys}
    for checks_of_asset in CHECKS.values():
        for name, check in checks_of_asset.items():
            if name in wanted:
                yield check(desk, done)


def _trials_so_far(desk: Desk) -> pl.DataFrame:
    """Every trial of the YAML file that has metrics, best on val first."""
    import polars as pl

    done = [trial for trial in desk.spec.trials if desk.tables.exists(desk.key("metrics"), trial)]
    rows = pl.concat([desk.tables.read(desk.key("metrics"), trial) for trial in done], how="vertical_relaxed")
    score = f"val_{desk.spec.metric}"
    return rows.select("trial", score, "test_top1", "test_macro_f1", "test_ece", "train_seconds").sort(
        score, descending=True
    )


def predictions(desk: Desk, trial: ResolvedTrial) -> None:
    """Logits of every val and test image, by the checkpoint as it lies on disk."""
    import polars as pl

    from platform_assets.vision.checkpoints import CLASSIFIER_FILES, load_classifier
    from platform_assets.vision.evaluation import predictions_frame

    local = desk.folder(trial.trial).local_folder(*CLASSIFIER_FILES)
    classifier = load_classifier(local, expect_label_map=desk.inputs.label_map)
    records = desk.inputs.records_of(trial)
    evaluated = records.with_row_index("row").filter(pl.col("split").is_in(["val", "test"]))
    logits = _logits(desk, trial, classifier, records, evaluated["row"].to_numpy())
    rows = evaluated.select("image_id", "path", part="split", label="label")
    frame = predictions_frame(rows, logits, desk.inputs.label_map)
    desk.tables.write(desk.key("predictions"), frame, trial.trial)
    folder = desk.folder(trial.trial)
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    folder.add("predictions.parquet", buffer.getvalue())
    wrong = frame.filter((pl.col("part") == "test") & ~pl.col("correct"))
    desk.note(
        "predictions",
        trial,
        {
            "dagster/row_count": frame.height,
            "wrong_on_test": wrong.height,
            **add_views(desk, trial, classifier, frame),
            "most_confident_mistakes": show.table(
                wrong.sort("confidence", descending=True).select("path", "truth", "prediction", "confidence"),
                max_rows=20,
            ),
        },
    )


def _logits(
    desk: Desk, trial: ResolvedTrial, classifier: Classifier, records: pl.DataFrame, rows_n: NDArray[np.int64]
) -> NDArray[np.float32]:
    """logits_nk of these rows; a probe's come from the cached vectors, which are its backbone's output."""
    from platform_assets.vision.evaluation import predict
    from platform_assets.vision.fitting import features_of
    from platform_assets.vision.heads import logits_of_features

    if trial.mode in FROZEN_MODES:
        return logits_of_features(classifier.head, features_of(records[rows_n], trial_vectors(desk, trial)))
    device = desk.compute.choose(desk.context.log).device
    return predict(classifier, desk.pixels.rows(records, rows_n, trial.preprocessing), device=device)


def metrics(desk: Desk, trial: ResolvedTrial) -> None:
    """The figures of val and test, beside the checkpoint, in the table and in MLflow."""
    import polars as pl

    from platform_assets.vision import plots
    from platform_assets.vision.calibration import calibrate, report
    from platform_assets.vision.comparison import trial_row
    from platform_assets.vision.evaluation import compute_metrics, logits_and_truth, reliability_bins
    from platform_assets.vision.long_tail import shots_of

    frame, row = desk.tables.read(desk.key("predictions"), trial.trial), desk.row(trial.trial)
    val, test = (compute_metrics(frame, desk.inputs.label_map, part) for part in ("val", "test"))
    shots = shots_of(test, desk.inputs.records_of(trial), desk.inputs.label_map)
    fitted = calibrate(*logits_and_truth(frame, "val"), desk.spec.uncertainty)
    certainty = report(fitted, *logits_and_truth(frame, "test"))
    table = trial_row(
        trial,
        val=val,
        test=test,
        shots=shots,
        certainty=certainty,
        checkpoint_id=row.checkpoint_id,
        parameters=row.parameters,
        train_seconds=row.train_seconds,
    )
    text = _json_of(val=val, test=test, test_shots=shots)
    desk.folder(trial.trial).add("metrics.json", text)
    desk.folder(trial.trial).add(CALIBRATION, _json_of(calibration=fitted, on_test=certainty))
    confusion = plots.confusion_matrix(test.confusion, desk.inputs.label_map.names)
    mlflow_run = record(desk, trial, row, table, {"confusion_test.png": confusion, "metrics.json": text})
    desk.tables.write(desk.key("metrics"), table.with_columns(mlflow_run_id=pl.lit(mlflow_run)), trial.trial)
    desk.context.log.info(
        f"{trial.trial}: test top-1 {test.top1:.4f}, macro-F1 {test.macro_f1:.4f}, ECE {test.ece:.4f} on {test.images} images"
    )
    figures = {
        "test_top1": test.top1,
        "test_macro_f1": test.macro_f1,
        "test_loss": test.loss,
        "test_ece": test.ece,
        f"val_{trial.metric}": getattr(val, trial.metric),
    }
    # The materialization is written when the whole step ends; this shows the trial as soon as it is done.
    desk.context.log_event(dg.AssetObservation(desk.key("metrics"), partition=trial.trial, metadata=figures))
    reliability = plots.reliability_diagram(reliability_bins(frame, "test"))
    add_evaluation_log(desk, trial, frame, {"confusion": confusion, "reliability": reliability})
    desk.note(
        "metrics",
        trial,
        {
            **figures,
            "test_top1_interval": _interval(test.top1_interval),
            "test_macro_f1_interval": _interval(test.macro_f1_interval),
            **{f"test_accuracy_{kind}": value for kind, value in shots.model_dump().items() if value is not None},
            "per_class": show.table(_per_class(test)),
            "certainty": show.table(_certainty(fitted, certainty)),
            "confusion": show.picture(confusion),
            "reliability": show.picture(reliability),
            "mlflow_run": dg.MetadataValue.url(desk.runs.run_url(mlflow_run)),
        },
    )


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f} (95 %, bootstrap over images)"


def _json_of(**records: BaseModel) -> bytes:
    return (
        json.dumps({name: each.model_dump(mode="json") for name, each in records.items()}, indent=2) + "\n"
    ).encode()


def _certainty(fitted: Calibration, on_test: CalibrationReport) -> pl.DataFrame:
    import polars as pl

    rows = {
        f"temperature, fitted on {fitted.images} images of val": fitted.temperature,
        "ECE before": on_test.ece_before,
        "ECE": on_test.ece,
        "adaptive ECE": on_test.adaptive_ece,
        f"label sets ({fitted.sets}) hold the truth, {fitted.coverage:g} wanted": on_test.covered,
        "labels a set": on_test.mean_set_size,
        f"answered, {fitted.precision:g} of them right wanted": on_test.answered,
        "of those right": on_test.answered_right,
    }
    return pl.DataFrame({"on test": rows.keys(), "value": rows.values()})


def _per_class(test: Metrics) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame([entry.model_dump() for entry in test.per_class])


STEPS = {"checkpoint": checkpoint, "predictions": predictions, "metrics": metrics}
