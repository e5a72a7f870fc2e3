"""The bodies of the assets of one trial: checkpoint, predictions, metrics."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.desk import CheckpointRow, Desk
from platform_assets.components.embedding_steps import vectors_of
from platform_assets.components.specs import code_version, data_version
from platform_assets.components.tracking import begin, ended_as_it_ends, record
from platform_assets.components.trial_checks import CHECKS

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.vision.fitting import Fitted
    from platform_assets.vision.recipes import ResolvedTrial
    from platform_assets.vision.training_state import EpochRow

CHECKPOINT = (
    "One trained classifier a trial: weights (safetensors), config, label map, environment stamp, parts and training curve. "
    "A trial whose data, config and code are unchanged is found on disk and not trained again."
)
PREDICTIONS = "One row per evaluated image (val and test) of a trial: logits, probabilities, prediction, truth."
METRICS = (
    "One row a trial: top-1, top-5, macro-F1, loss and ECE on val and test with intervals, per-class table and confusion "
    "matrix; its MLflow run."
)
FITTING = ("vision.fitting", "vision.checkpoints")
EVALUATION = ("vision.evaluation", "vision.fitting")


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
    configs = [desk.inputs.trial(partition).config_hash for partition in desk.spec.trials]
    version = data_version(desk.inputs.records_version, code_version(*FITTING, *EVALUATION), *configs)
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


def input_version(desk: Desk) -> str:
    """The version of everything beside the config that a checkpoint follows from: records and code."""
    return data_version(desk.inputs.records_version, code_version(*FITTING)).value


def checkpoint(desk: Desk, trial: ResolvedTrial) -> None:
    """Take the finished checkpoint of this config, data and code, or fit one."""
    row = _finished(desk, trial)
    reused = row is not None
    if row is None:
        row = _fit(desk, trial)
    else:
        desk.context.log.info(f"{trial.trial}: nothing changed, checkpoint {row.checkpoint_id} is taken as it is")
    history = _read_history(desk, trial)
    desk.note(
        "checkpoint",
        trial,
        {
            "checkpoint_id": row.checkpoint_id,
            "config_hash": row.config_hash,
            "folder": dg.MetadataValue.path(row.folder_url),
            "reused": reused,
            "parameters": row.parameters,
            "train_seconds": row.train_seconds,
            "device": row.device,
            "curve": show.picture(_curve(trial, history)),
            "history": show.table(history),
            "config": dg.MetadataValue.json(json.loads(trial.canonical_json())),
        },
    )


def _finished(desk: Desk, trial: ResolvedTrial) -> CheckpointRow | None:
    """The earlier checkpoint, if it is of this config and input and its folder is whole."""
    if not desk.tables.exists(desk.key("checkpoint"), trial.trial):
        return None
    row = desk.row(trial.trial)
    same = (row.config_hash, row.input_version) == (trial.config_hash, input_version(desk))
    return row if same and not desk.outputs.at(row.folder_url).verify() else None


def _fit(desk: Desk, trial: ResolvedTrial) -> CheckpointRow:
    import polars as pl

    from platform_assets.vision.checkpoints import save_checkpoint
    from platform_assets.vision.tensorboard_log import write_tensorboard

    started, asset, run_id = time.time(), "/".join(desk.key("checkpoint")), desk.context.run.run_id
    work = desk.outputs.working(asset, trial.trial, trial.config_hash, input_version(desk))
    device = desk.compute.choose(desk.context.log).device if trial.mode != "linear_probe" else "cpu"
    records = desk.inputs.records_of(trial)
    begin(desk, trial)
    fitted = _fitted(desk, trial, records, work, device)
    checkpoint_id = save_checkpoint(fitted.classifier, work, label_map=desk.inputs.label_map, trial=trial)
    fit = {
        "records_version": desk.inputs.records_version,
        "input_version": input_version(desk),
        "device": device,
        "parameters": fitted.classifier.parameter_count,
        "train_seconds": time.time() - started,
        **fitted.summary,
    }
    fitted.history.write_parquet(work / "history.parquet")
    records.select("image_id", "path", "label", "split").write_parquet(work / "parts.parquet")
    (work / "fit.json").write_text(json.dumps(fit, indent=2) + "\n")
    (work / "env.json").write_text(json.dumps(_stamp(desk, trial, device), indent=2) + "\n")
    shutil.rmtree(work / "tb", ignore_errors=True)
    write_tensorboard(work / "tb", fitted.history, metric=trial.metric)
    folder = desk.outputs.publish(work, run_id=run_id, config_hash=trial.config_hash, checkpoint_id=checkpoint_id)
    row = CheckpointRow(
        trial=trial.trial,
        run_id=run_id,
        config_hash=trial.config_hash,
        checkpoint_id=checkpoint_id,
        input_version=fit["input_version"],
        folder_url=folder.url,
        device=device,
        parameters=fit["parameters"],
        train_seconds=fit["train_seconds"],
        started_ms=int(started * 1000),
        ended_ms=int(time.time() * 1000),
    )
    desk.tables.write(desk.key("checkpoint"), pl.DataFrame([row.model_dump()]), trial.trial)
    desk.context.log.info(f"{trial.trial}: checkpoint {checkpoint_id} after {row.train_seconds:.1f} s at {folder.url}")
    return row


def _fitted(desk: Desk, trial: ResolvedTrial, records: pl.DataFrame, work: Path, device: Any) -> Fitted:
    from platform_assets.vision.fitting import fit_network_trial, fit_probe_trial

    if trial.mode == "linear_probe":
        return fit_probe_trial(trial, records, _vectors(desk, trial), desk.inputs.label_map)
    return fit_network_trial(
        trial,
        records,
        desk.pixels,
        desk.inputs.label_map,
        device=device,
        work_dir=work / "_resume",
        on_epoch=lambda row: _report_epoch(desk, trial, row),
    )


def _vectors(desk: Desk, trial: ResolvedTrial) -> pl.DataFrame:
    return vectors_of(desk.tables, desk.files.embedding_cache(), desk.inputs, trial)


def _report_epoch(desk: Desk, trial: ResolvedTrial, row: EpochRow) -> None:
    """Each epoch at once in the log and, as an observation of the partition, in the UI."""
    epochs = trial.train.epochs if trial.train else 0
    desk.context.log.info(
        f"{trial.trial}: epoch {row.epoch} of {epochs}, train loss {row.train_loss:.4f}, val loss {row.val_loss:.4f}, "
        f"val {trial.metric} {row.val_metric:.4f}, {row.seconds:.1f} s"
    )
    observed = dg.AssetObservation(desk.key("checkpoint"), partition=trial.trial, metadata=row.model_dump())
    desk.context.log_event(observed)


def _stamp(desk: Desk, trial: ResolvedTrial, device: Any) -> dict[str, Any]:
    from platform_assets.stores.stamps import environment_stamp

    tiny = desk.files.tiny_subset(desk.spec.dataset)
    tiny_path = str(tiny) if tiny.is_dir() else None
    return environment_stamp(
        run_id=desk.context.run.run_id,
        config_hash=trial.config_hash,
        seed=trial.seed,
        device=device,
        fp16=False,
        tiny_train_subset_path=tiny_path,
        tiny_infer_subset_path=tiny_path,
        repository=Path(desk.files.root),
    )


def _read_history(desk: Desk, trial: ResolvedTrial) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(desk.folder(trial.trial).path("history.parquet"))


def _curve(trial: ResolvedTrial, history: pl.DataFrame) -> bytes:
    from platform_assets.vision import plots

    if trial.mode == "linear_probe":
        return plots.regularization_curve(history, metric=trial.metric)
    return plots.learning_curves(history, metric=trial.metric)


def predictions(desk: Desk, trial: ResolvedTrial) -> None:
    """Logits of every val and test image, by the checkpoint as it lies on disk."""
    import polars as pl

    from platform_assets.vision.evaluation import predictions_frame

    records = desk.inputs.records_of(trial)
    evaluated = records.with_row_index("row").filter(pl.col("split").is_in(["val", "test"]))
    logits = _logits(desk, trial, records)[evaluated["row"].to_numpy()]
    rows = evaluated.select("image_id", "path", part="split", label="label")
    frame = predictions_frame(rows, logits, desk.inputs.label_map)
    desk.tables.write(desk.key("predictions"), frame, trial.trial)
    folder = desk.folder(trial.trial)
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    folder.add("predictions.parquet", buffer.getvalue())
    _add_fiftyone(desk, trial, frame)
    wrong = frame.filter((pl.col("part") == "test") & ~pl.col("correct"))
    desk.note(
        "predictions",
        trial,
        {
            "dagster/row_count": frame.height,
            "wrong_on_test": wrong.height,
            "worst_mistakes": show.picture(_mistakes(desk, frame)),
            "most_confident_mistakes": show.table(
                wrong.sort("confidence", descending=True).select("path", "truth", "prediction", "confidence"),
                max_rows=20,
            ),
        },
    )


def _logits(desk: Desk, trial: ResolvedTrial, records: pl.DataFrame) -> Any:
    """logits_nk of all records; a probe's come from the cached vectors, which are its backbone's output."""
    import torch

    from platform_assets.vision.checkpoints import load_classifier
    from platform_assets.vision.evaluation import predict
    from platform_assets.vision.fitting import features_of

    folder = desk.folder(trial.trial).local_folder("ckpt.safetensors", "config.json", "labelmap.json")
    classifier = load_classifier(folder, expect_label_map=desk.inputs.label_map)
    if trial.mode == "linear_probe":
        with torch.inference_mode():
            return classifier.head(torch.from_numpy(features_of(records, _vectors(desk, trial)))).numpy()
    device = desk.compute.choose(desk.context.log).device
    return predict(classifier, desk.pixels.of(records, trial.preprocessing), device=device)


def _mistakes(desk: Desk, frame: pl.DataFrame) -> bytes:
    from platform_assets.vision.galleries import mistakes_sheet

    return mistakes_sheet(frame, lambda path: (desk.inputs.root / path).read_bytes())


def _add_fiftyone(desk: Desk, trial: ResolvedTrial, frame: pl.DataFrame) -> None:
    from platform_assets.vision.fiftyone_folder import write_fiftyone

    with tempfile.TemporaryDirectory() as folder:
        write_fiftyone(Path(folder), frame, root=desk.inputs.root, label_map=desk.inputs.label_map)
        desk.folder(trial.trial).add_tree("fiftyone", Path(folder))


def metrics(desk: Desk, trial: ResolvedTrial) -> None:
    """The figures of val and test, beside the checkpoint, in the table and in MLflow."""
    import polars as pl

    from platform_assets.vision import plots
    from platform_assets.vision.comparison import trial_row
    from platform_assets.vision.evaluation import compute_metrics, reliability_bins

    frame, row = desk.tables.read(desk.key("predictions"), trial.trial), desk.row(trial.trial)
    val, test = (compute_metrics(frame, desk.inputs.label_map, part) for part in ("val", "test"))
    table = trial_row(
        trial,
        val=val,
        test=test,
        checkpoint_id=row.checkpoint_id,
        parameters=row.parameters,
        train_seconds=row.train_seconds,
    )
    text = json.dumps({"val": val.model_dump(mode="json"), "test": test.model_dump(mode="json")}, indent=2)
    desk.folder(trial.trial).add("metrics.json", text.encode())
    confusion = plots.confusion_matrix(test.confusion, desk.inputs.label_map.names)
    mlflow_run = record(desk, trial, row, table, {"confusion_test.png": confusion, "metrics.json": text.encode()})
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
    observed = dg.AssetObservation(desk.key("metrics"), partition=trial.trial, metadata=figures)
    desk.context.log_event(observed)
    desk.note(
        "metrics",
        trial,
        {
            **figures,
            "test_top1_interval": _interval(test.top1_interval),
            "test_macro_f1_interval": _interval(test.macro_f1_interval),
            "per_class": show.table(_per_class(test)),
            "confusion": show.picture(confusion),
            "reliability": show.picture(plots.reliability_diagram(reliability_bins(frame, "test"))),
            "mlflow_run": dg.MetadataValue.url(desk.runs.run_url(mlflow_run)),
        },
    )


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f} (95 %, bootstrap over images)"


def _per_class(test: Any) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame([entry.model_dump() for entry in test.per_class])


STEPS = {"checkpoint": checkpoint, "predictions": predictions, "metrics": metrics}
