"""The trials of a run one after the other, and the body of predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.checkpoint_steps import FITTING, checkpoint, trial_vectors
from platform_assets.components.desk import Desk
from platform_assets.components.leaderboard_steps import metrics_rows
from platform_assets.components.metrics_steps import METRICS_FOLLOW, metrics
from platform_assets.components.specs import code_version, data_version
from platform_assets.components.tracking import ended_as_it_ends
from platform_assets.components.trial_checks import CHECKS
from platform_assets.components.view_steps import FEATURES, add_views
from platform_assets.stores.tables import parquet_bytes
from platform_assets.vision.recipes.modes import FROZEN_MODES

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from platform_assets.vision.networks.models import Classifier
    from platform_assets.vision.recipes.resolving import ResolvedTrial

PREDICTIONS = "One row per evaluated image (val and test) of a trial: logits, probabilities, prediction, truth."
EVALUATION = (
    *("vision.evaluation.predictions", "vision.evaluation.calibration", "vision.trials.network_fitting"),
    "vision.networks.head_inputs",
)
FEATURES_KEPT = 10_000  # images: 80 MB of vectors of 2,048 numbers


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
    determined_by = (
        desk.inputs.records_version,
        code_version(*FITTING, *EVALUATION),
        desk.spec.uncertainty.model_dump_json(),
        *configs,
    )
    for name in STEPS:
        if name in selected:
            yield dg.MaterializeResult(
                desk.key(name),
                data_version=data_version(*determined_by, *(_asked_of_metrics(desk) if name == "metrics" else ())),
                metadata={"trials": show.table(_trials_so_far(desk))} if name == "metrics" else {},
                check_results=[check(desk, partitions) for check in CHECKS.get(name, {}).values()],
            )


def _asked_of_metrics(desk: Desk) -> tuple[str, ...]:
    spec = desk.spec
    return code_version(*METRICS_FOLLOW), json.dumps([spec.costs, spec.slices, spec.spectral_alpha], sort_keys=True)


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
    done = [trial for trial in desk.spec.trials if desk.tables.exists(desk.key("metrics"), trial)]
    rows = metrics_rows(desk.spec, desk.tables, done)
    score = f"val_{desk.spec.metric}"
    return rows.select("trial", score, "test_top1", "test_macro_f1", "test_ece", "train_seconds").sort(
        score, descending=True
    )


def predictions(desk: Desk, trial: ResolvedTrial) -> None:
    """Logits of every val and test image, by the checkpoint as it lies on disk."""
    import polars as pl

    from platform_assets.vision.evaluation.predictions import predictions_frame
    from platform_assets.vision.networks.checkpoints import CLASSIFIER_FILES, load_classifier

    local = desk.folder(trial.trial).local_folder(*CLASSIFIER_FILES)
    classifier = load_classifier(local, expect_label_map=desk.inputs.label_map)
    records = desk.inputs.records_of(trial)
    evaluated = records.with_row_index("row").filter(pl.col("split").is_in(["val", "test"]))
    logits, vectors = _outputs(desk, trial, classifier, records, evaluated["row"].to_numpy())
    rows = evaluated.select(
        "image_id", "path", desk.inputs.groups_of(records).gather(evaluated["row"]), part="split", label="label"
    )
    frame = predictions_frame(rows, logits, desk.inputs.label_map)
    desk.tables.write(desk.key("predictions"), frame, trial.trial)
    desk.folder(trial.trial).add("predictions.parquet", parquet_bytes(frame))
    if trial.mode not in FROZEN_MODES:
        desk.folder(trial.trial).add(FEATURES, parquet_bytes(vectors))
    wrong = frame.filter((pl.col("part") == "test") & ~pl.col("correct"))
    desk.note(
        "predictions",
        trial,
        {
            "dagster/row_count": frame.height,
            "wrong_on_test": wrong.height,
            **add_views(desk, trial, classifier, frame, vectors),
            "most_confident_mistakes": show.table(
                wrong.sort("confidence", descending=True).select("path", "truth", "prediction", "confidence"),
                max_rows=20,
            ),
        },
    )


def _outputs(
    desk: Desk, trial: ResolvedTrial, classifier: Classifier, records: pl.DataFrame, rows_n: NDArray[np.int64]
) -> tuple[NDArray[np.float32], pl.DataFrame]:
    """logits_nk of these rows, and the vectors (image_id, vector) that the head saw: a probe's are cached, its backbone's
    output; a network's are taken as it predicts, of up to FEATURES_KEPT images in the order of their ids."""
    import polars as pl

    from platform_assets.vision.heads.modules import logits_of_features
    from platform_assets.vision.networks.head_inputs import predict_with_features
    from platform_assets.vision.trials.fitting import features_of

    if trial.mode in FROZEN_MODES:
        vectors = trial_vectors(desk, trial)
        return logits_of_features(classifier.head, features_of(records[rows_n], vectors)), vectors
    device, ids = desk.compute.choose(desk.context.log).device, records["image_id"].gather(rows_n)
    kept_n = (ids.rank("ordinal") <= FEATURES_KEPT).to_numpy()
    images = desk.pixels.rows(records, rows_n, trial.preprocessing)
    logits_nk, features_md = predict_with_features(classifier, images, kept_n, device=device)
    vector = pl.Series("vector", features_md, dtype=pl.Array(pl.Float32, features_md.shape[1]))
    return logits_nk, pl.DataFrame({"image_id": ids.filter(pl.Series(kept_n)), "vector": vector})


STEPS = {"checkpoint": checkpoint, "predictions": predictions, "metrics": metrics}
