"""The body of metrics: the figures of a trial, its slices, and what they may be compared with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.specs import code_version
from platform_assets.components.tracking import record
from platform_assets.components.trial_evaluation import METRICS_FILE, evaluation_of, metrics_row
from platform_assets.components.view_steps import add_evaluation_log
from platform_assets.stores.tables import parquet_bytes

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.desk import Desk
    from platform_assets.stores.outputs import OutputFolder
    from platform_assets.vision.evaluation.calibration import Calibration
    from platform_assets.vision.evaluation.calibration_report import CalibrationReport
    from platform_assets.vision.evaluation.metrics import CoarseMetrics, Metrics
    from platform_assets.vision.recipes.resolving import ResolvedTrial

METRICS = (
    "One row a trial: accuracy, F1, AUROC, Brier, loss and calibration on val and test with intervals, and the hash that says "
    "what it may be compared with. Per-class table, confusion matrix, worst slices (table `slices`); its MLflow run."
)
METRICS_FOLLOW = ("vision.evaluation.comparison", "vision.evaluation.slices", "vision.evaluation.spectral_alpha")
METRIC_CODE = ("vision.evaluation.measurement",)
"""All that the figures follow from; a change of anything else leaves rows comparable."""
_WORST_SLICES = 10


def metrics(desk: Desk, trial: ResolvedTrial) -> None:
    """The figures of val and test, beside the checkpoint, in the tables and in MLflow."""
    import polars as pl

    from platform_assets.vision.evaluation.slices import slice_columns, slices
    from platform_assets.vision.views.plots import confusion_matrix

    frame, row, folder = (
        desk.tables.read(desk.key("predictions"), trial.trial),
        desk.row(trial.trial),
        desk.folder(trial.trial),
    )
    found, records = evaluation_of(desk, trial, frame), desk.inputs.records_of(trial)
    val, test = found.val, found.test
    table = metrics_row(
        desk,
        trial,
        found,
        folder,
        parameters=row.parameters,
        metric_code=code_version(*METRIC_CODE),
        spectral_alpha=_spectral_alpha(desk, folder),
    )
    pieces = slices(frame, records, slice_columns(records, desk.spec.slices))
    texts = {name: (json.dumps(document, indent=2) + "\n").encode() for name, document in found.documents.items()}
    _add(folder, texts, pieces)
    confusion, reliability = confusion_matrix(test.confusion, desk.inputs.label_map.names), _reliability(frame)
    add_evaluation_log(desk, trial, frame, {"confusion": confusion, "reliability": reliability})
    mlflow_run = record(desk, trial, row, table, {"confusion_test.png": confusion, METRICS_FILE: texts[METRICS_FILE]})
    desk.tables.write(desk.key("metrics"), table.with_columns(mlflow_run_id=pl.lit(mlflow_run)), trial.trial)
    desk.tables.write(desk.key("slices"), pieces.with_columns(trial=pl.lit(trial.trial)), trial.trial)
    _tell(desk, trial, val, test)
    desk.note(
        "metrics",
        trial,
        {
            **_shown(trial, val, test),
            **{f"test_accuracy_{kind}": value for kind, value in found.shots.model_dump().items() if value is not None},
            "worst_slices": show.table(_worst(pieces)),
            "certainty": show.table(_certainty(found.fitted, found.certainty)),
            "confusion": show.picture(confusion),
            "reliability": show.picture(reliability),
            "comparability": table["comparability"][0],
            "mlflow_run": dg.MetadataValue.url(desk.runs.run_url(mlflow_run)),
        },
    )


def _shown(trial: ResolvedTrial, val: Metrics, test: Metrics) -> dict[str, Any]:
    return {
        **_figures(trial, val, test),
        "figures": show.table(figures_table(val, test)),
        "per_class": show.table(_per_class(test)),
        **({"coarse_labels": show.table(_coarse(test.coarse))} if test.coarse else {}),
    }


def _reliability(frame: pl.DataFrame) -> bytes:
    from platform_assets.vision.evaluation.predictions import reliability_bins
    from platform_assets.vision.views.plots import reliability_diagram

    return reliability_diagram(reliability_bins(frame, "test"))


def _spectral_alpha(desk: Desk, folder: OutputFolder) -> float | None:
    if not desk.spec.spectral_alpha:
        return None
    from platform_assets.vision.evaluation.spectral_alpha import spectral_alpha
    from platform_assets.vision.networks.checkpoints import CLASSIFIER_FILES, load_classifier

    return spectral_alpha(load_classifier(folder.local_folder(*CLASSIFIER_FILES)))


def _add(folder: OutputFolder, files: dict[str, bytes], pieces: pl.DataFrame) -> None:
    for name, content in {**files, "slices.parquet": parquet_bytes(pieces)}.items():
        folder.add(name, content)


def _tell(desk: Desk, trial: ResolvedTrial, val: Metrics, test: Metrics) -> None:
    """At once in the log and the UI: the materialization itself is written when the whole step ends."""
    desk.context.log.info(
        f"{trial.trial}: test top-1 {test.top1:.4f}, macro-F1 {test.macro_f1:.4f}, ECE {test.ece:.4f} on {test.images} images"
    )
    observed = dg.AssetObservation(desk.key("metrics"), partition=trial.trial, metadata=_figures(trial, val, test))
    desk.context.log_event(observed)


def _figures(trial: ResolvedTrial, val: Metrics, test: Metrics) -> dict[str, float]:
    """Those that the UI plots over time."""
    return {
        "test_top1": test.top1,
        "test_macro_f1": test.macro_f1,
        "test_loss": test.loss,
        "test_ece": test.ece,
        f"val_{trial.metric}": getattr(val, trial.metric),
    }


def figures_table(val: Metrics, test: Metrics) -> pl.DataFrame:
    """One row a headline figure: test, its 95 % interval, val; without those that the part has none of."""
    import polars as pl

    from platform_assets.vision.evaluation.metrics import HEADLINES

    rows = [
        {
            "figure": name,
            "test": getattr(test, name),
            "test, 95 %": _interval(getattr(test, f"{name}_interval")),
            "val": getattr(val, name),
        }
        for name in HEADLINES
        if getattr(test, name) is not None
    ]
    images = {"figure": "images", "test": float(test.images), "test, 95 %": None, "val": float(val.images)}
    return pl.DataFrame([*rows, images], infer_schema_length=None)


def _interval(bounds: tuple[float, float] | None) -> str | None:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else None


def _worst(pieces: pl.DataFrame) -> pl.DataFrame:
    """The lowest ranks, and how many were looked at."""
    import polars as pl

    ranked = pieces.filter(pl.col("rank").is_not_null())
    return ranked.head(_WORST_SLICES).select(
        "rank",
        "column",
        "value",
        "images",
        "accuracy",
        "low",
        "high",
        "accuracy_elsewhere",
        "p_holm",
        of=pl.lit(ranked.height),
    )


def _coarse(coarse: CoarseMetrics) -> pl.DataFrame:
    import polars as pl

    low, high = coarse.top1_interval
    rows = {
        "coarse labels": float(len(coarse.labels)),
        "top-1": coarse.top1,
        "top-1, 95 % from": low,
        "top-1, 95 % to": high,
        "macro-F1": coarse.macro_f1,
        "mistakes whose coarse label is right": coarse.mistakes_within,
    }
    return pl.DataFrame({"on test": rows.keys(), "value": rows.values()})


def _certainty(fitted: Calibration, on_test: CalibrationReport) -> pl.DataFrame:
    import polars as pl

    names = {
        "ece_before": "ECE before",
        "ece": "ECE",
        "adaptive_ece": "adaptive ECE",
        "covered": f"label sets ({fitted.sets}) hold the truth, {fitted.coverage:g} wanted",
        "mean_set_size": "labels a set",
        "answered": f"answered, {fitted.precision:g} of them right wanted, {fitted.precision_level:g} sure",
        "answered_right": "of those right",
    }
    rows = [
        (f"temperature, fitted on {fitted.images} images of val", fitted.temperature, None),
        *(
            (said, getattr(on_test, name), _interval(getattr(on_test, f"{name}_interval")))
            for name, said in names.items()
        ),
    ]
    return pl.DataFrame(rows, schema={"on test": pl.String, "value": pl.Float64, "95 %": pl.String}, orient="row")


def _per_class(test: Metrics) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame([entry.model_dump() for entry in test.per_class], infer_schema_length=None)
