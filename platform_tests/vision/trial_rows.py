"""Trials whose predictions are right as often as a test says, as metrics rows and predictions."""

from __future__ import annotations

import numpy as np
import polars as pl

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.calibration import calibrate
from platform_assets.vision.evaluation.calibration_report import CalibrationReport, report_of
from platform_assets.vision.evaluation.comparability import Comparability, fixed_preprocessing
from platform_assets.vision.evaluation.comparison import trial_row
from platform_assets.vision.evaluation.long_tail import ShotAccuracy
from platform_assets.vision.evaluation.metrics import Metrics
from platform_assets.vision.evaluation.predictions import compute_metrics, logits_and_truth, predictions_frame
from platform_assets.vision.recipes.resolving import Protocol, resolve_trial
from platform_assets.vision.recipes.uncertainty_options import UncertaintyOptions
from platform_assets.vision.recipes.variants import Variant

AB = LabelMap(names=("a", "b"))
PROTOCOL = Protocol(dataset="letters", experiment="e", metric="top1", label_map_checksum=AB.checksum)
IMAGES = 40
CNN = Variant(backbone="baseline_cnn", mode="scratch")

Trial = tuple[pl.DataFrame, pl.DataFrame]


def predictions_of(val_right: int, test_right: int, *, images: int = IMAGES, shift: int = 0) -> pl.DataFrame:
    """Predictions with the given numbers right, from image `shift` on; half of the images are of each class."""
    frames = []
    for part, right in (("val", val_right), ("test", test_right)):
        ids = [f"{part}{number:03}" for number in range(images)]
        truth_n = np.arange(images) % 2
        wrong_n = (np.arange(images) - shift) % images >= right
        logits_nk = np.eye(2, dtype=np.float32)[np.where(wrong_n, 1 - truth_n, truth_n)] * 3
        rows = pl.DataFrame({"image_id": ids, "path": ids, "part": part, "label": [AB.names[i] for i in truth_n]})
        frames.append(predictions_frame(rows, logits_nk, AB))
    return pl.concat(frames)


def comparability_of(val: Metrics, test: Metrics, **changes: str) -> Comparability:
    """As of one dataset, split and code, but for the changes."""
    return Comparability(
        **{
            "dataset_version": "v1",
            "label_map_checksum": test.label_map_checksum,
            "split_sha256": "5" * 64,
            "val_ids_sha256": val.image_ids_sha256,
            "test_ids_sha256": test.image_ids_sha256,
            "protocol": fixed_preprocessing(PROTOCOL),
            "metric_code": "c0de",
            **changes,
        }
    )


def trial_of(
    name: str, seed: int, predictions: pl.DataFrame, variant: Variant = CNN, changes: dict[str, str] | None = None
) -> Trial:
    trial = resolve_trial(variant, name=name, seed=seed, protocol=PROTOCOL)
    val, test = (compute_metrics(predictions, AB, part) for part in ("val", "test"))
    row = trial_row(
        trial,
        val=val,
        test=test,
        shots=ShotAccuracy(many=test.top1, medium=None, few=None),
        certainty=_certainty(predictions),
        comparability=comparability_of(val, test, **(changes or {})),
        checkpoint_id="00" * 8,
        parameters=10,
        train_seconds=2.0 + seed,
    )
    return row, predictions


def _certainty(predictions: pl.DataFrame) -> CalibrationReport:
    fitted = calibrate(*logits_and_truth(predictions, "val"), UncertaintyOptions())
    return report_of(fitted, predictions)


def experiment_of(trials: list[Trial]) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    return pl.concat([row for row, _ in trials]), {row["trial"][0]: frame for row, frame in trials}


def three_variants() -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """`good` is the best on val, `lucky` on test; `base` is neither."""
    scores = {"base": (20, 20), "good": (36, 30), "lucky": (24, 38)}
    return experiment_of(
        [
            trial_of(variant, seed, predictions_of(val + seed, test + seed))
            for variant, (val, test) in scores.items()
            for seed in (0, 1)
        ]
    )
