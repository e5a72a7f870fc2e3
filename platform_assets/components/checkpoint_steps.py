"""The body of the checkpoint asset: a finished trial is found on disk, another one is fitted and published."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.desk import CheckpointRow, Desk
from platform_assets.components.embedding_steps import vectors_of
from platform_assets.components.specs import code_version, data_version
from platform_assets.components.tracking import begin
from platform_assets.vision.recipes.modes import COMBINATION_MODES, FROZEN_MODES

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.stores.outputs import Outputs
    from platform_assets.vision.datasets.label_map import LabelMap
    from platform_assets.vision.networks.models import Classifier
    from platform_assets.vision.recipes.resolving import ResolvedTrial
    from platform_assets.vision.training.pace import PaceReport
    from platform_assets.vision.training.state import EpochRow
    from platform_assets.vision.trials.fitting import Fitted

CHECKPOINT = (
    "One trained classifier a trial: weights (safetensors), config, label map, environment stamp, parts and training curve. "
    "A trial whose data, config and code are unchanged is found on disk and not trained again."
)
FITTING = ("vision.trials.network_fitting", "vision.trials.combination_fitting", "vision.networks.checkpoints")
PACE_EVERY_SECONDS = 10.0


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

    from platform_assets.vision.networks.checkpoints import save_checkpoint, save_last
    from platform_assets.vision.training.tensorboard_log import write_tensorboard

    started, asset, run_id = time.time(), "/".join(desk.key("checkpoint")), desk.context.run.run_id
    work = desk.outputs.working(asset, trial.trial, trial.config_hash, input_version(desk))
    device = "cpu" if trial.mode in FROZEN_MODES else desk.compute.choose(desk.context.log).device
    records = desk.inputs.records_of(trial)
    begin(desk, trial)
    fitted = fitted_trial(desk, trial, records, work / "_resume", lambda row: _report_epoch(desk, trial, row))
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
    if fitted.last is not None:
        save_last(fitted.last, work)
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


def fitted_trial(
    desk: Desk, trial: ResolvedTrial, records: pl.DataFrame, work: Path, on_epoch: Callable[[EpochRow], None]
) -> Fitted:
    """A head on cached vectors, or a network on pixels that goes on from what an earlier run left in `work`."""
    from platform_assets.vision.machine.fallbacks import fallbacks_reported
    from platform_assets.vision.trials.fitting import fit_probe_trial
    from platform_assets.vision.trials.network_fitting import Listeners, fit_network_trial

    if trial.mode in COMBINATION_MODES:
        return _combined(desk, trial, records)
    weights, log = desk.inputs.start(desk.spec.variants[trial.variant]), desk.context.log
    if trial.mode in FROZEN_MODES:
        return fit_probe_trial(trial, records, trial_vectors(desk, trial), desk.inputs.label_map, weights=weights)
    if trial.starts_random:
        log.warning(f"{trial.trial}: pretrained is false, the finetune starts from random weights")
    with fallbacks_reported(log.warning) as fallen_back:
        fitted = fit_network_trial(
            trial,
            records,
            desk.pixels,
            desk.inputs.label_map,
            device=desk.compute.choose(log).device,
            work_dir=work,
            weights=weights,
            teacher=teacher_of(trial, desk.outputs, Path(desk.files.root), desk.inputs.label_map),
            threads=desk.compute.threads or desk.files.computing_threads(),
            listeners=Listeners(on_epoch=on_epoch, on_progress=_pace(desk, trial), say=log.info),
        )
    fitted.summary["operators_on_cpu"] = len(fallen_back)
    return fitted


def _combined(desk: Desk, trial: ResolvedTrial, records: pl.DataFrame) -> Fitted:
    from platform_assets.vision.networks.checkpoints import CLASSIFIER_FILES
    from platform_assets.vision.trials.combination_fitting import fit_combination_trial

    keys = [member.trial.trial for member in trial.members]
    members = [(key, desk.folder(key).local_folder(*CLASSIFIER_FILES)) for key in keys]
    device = desk.compute.choose(desk.context.log).device
    return fit_combination_trial(trial, records, desk.pixels, desk.inputs.label_map, members, device=device)


def teacher_of(trial: ResolvedTrial, outputs: Outputs, project: Path, label_map: LabelMap) -> Classifier | None:
    """The classifier that a trial distills from, whose place starts at the project."""
    from platform_assets.vision.networks.checkpoints import CLASSIFIER_FILES, load_classifier

    said = trial.train.distill_from if trial.train else None
    if said is None:
        return None
    url = said if "://" in said else str(project / said)
    folder = outputs.at(url).local_folder(*CLASSIFIER_FILES)
    return load_classifier(folder, expect_label_map=label_map)


def _pace(desk: Desk, trial: ResolvedTrial) -> Callable[[PaceReport], None]:
    """The first line after two seconds, then one every ten."""
    said = time.monotonic() - PACE_EVERY_SECONDS

    def tell(pace: PaceReport) -> None:
        nonlocal said
        if time.monotonic() - said >= PACE_EVERY_SECONDS:
            said = time.monotonic()
            desk.context.log.info(f"{trial.trial}: {pace.text}")

    return tell


def trial_vectors(desk: Desk, trial: ResolvedTrial) -> pl.DataFrame:
    return vectors_of(desk.tables, desk.files.embedding_cache(), desk.inputs, trial)


def _report_epoch(desk: Desk, trial: ResolvedTrial, row: EpochRow) -> None:
    """Each epoch at once in the log and, as an observation of the partition, in the UI."""
    epochs = trial.train.epochs if trial.train else 0
    desk.context.log.info(
        f"{trial.trial}: epoch {row.epoch} of {epochs}, train loss {row.train_loss:.4f}, val loss {row.val_loss:.4f}, "
        f"val {trial.metric} {row.val_metric:.4f}, {row.seconds:.1f} s, {row.images_per_second:.0f} images/s"
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
        fp16=trial.train is not None and trial.train.precision == "float16",
        tiny_train_subset_path=tiny_path,
        tiny_infer_subset_path=tiny_path,
        repository=Path(desk.files.root),
    )


def _read_history(desk: Desk, trial: ResolvedTrial) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(desk.folder(trial.trial).path("history.parquet"))


def _curve(trial: ResolvedTrial, history: pl.DataFrame) -> bytes:
    from platform_assets.vision.views import plots
    from platform_assets.vision.views.combination_plots import combination_steps

    if trial.mode in COMBINATION_MODES:
        return combination_steps(history, metric=trial.metric)
    if "epoch" in history.columns:
        return plots.learning_curves(history, metric=trial.metric)
    option = next(name for name in plots.OPTION_NAMES if name in history.columns)
    return plots.selection_curve(history, option=option, metric=trial.metric)
