"""The demo graph as one plain script: the same calls of the vision and stores layers, without Dagster.

python -m platform_tests.benchmarks.plain OUT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch

from platform_assets.settings import Settings
from platform_assets.stores.embeddings import EmbeddingCache
from platform_assets.stores.outputs import OutputFolder, Outputs
from platform_assets.stores.runs import Runs, TrialRun
from platform_assets.stores.stamps import environment_stamp
from platform_assets.stores.tables import Tables
from platform_assets.vision.cards.data_card import DataCardFacts, data_card
from platform_assets.vision.cards.profile_page import ProfilePageFacts, profile_page
from platform_assets.vision.datasets.dataset_diff import diff
from platform_assets.vision.datasets.profile import profile
from platform_assets.vision.datasets.scanning import hash_files, scan
from platform_assets.vision.datasets.sources import source_files, source_root
from platform_assets.vision.datasets.splits import assign_splits
from platform_assets.vision.datasets.tiny import choose_tiny, copy_tiny
from platform_assets.vision.evaluation.calibration import calibrate
from platform_assets.vision.evaluation.calibration_report import report_of
from platform_assets.vision.evaluation.comparability import Comparability, fixed_preprocessing, split_sha256
from platform_assets.vision.evaluation.comparison import choose_champion, trial_row
from platform_assets.vision.evaluation.leaderboards import leaderboard
from platform_assets.vision.evaluation.long_tail import shots_of
from platform_assets.vision.evaluation.predictions import compute_metrics, logits_and_truth, predictions_frame
from platform_assets.vision.evaluation.slices import slice_columns, slices
from platform_assets.vision.networks.checkpoints import load_classifier, save_checkpoint
from platform_assets.vision.networks.exporting import check_parity, export_onnx, measure_latency
from platform_assets.vision.networks.inference import predict
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.quality.findings import Findings
from platform_assets.vision.quality.image_faults import image_faults, scores_by_pixels
from platform_assets.vision.quality.label_faults import label_faults
from platform_assets.vision.quality.near_duplicates import (
    near_duplicate_groups,
    near_duplicates,
    near_duplicates_by_vectors,
)
from platform_assets.vision.quality.record_schema import schema_problems
from platform_assets.vision.quality.shift import shift
from platform_assets.vision.recipes.resolving import Protocol, ResolvedTrial, resolve_trial
from platform_assets.vision.recipes.uncertainty_options import UncertaintyOptions
from platform_assets.vision.training.pixels import Pixels
from platform_assets.vision.trials.fitting import features_of, fit_probe_trial
from platform_assets.vision.trials.network_fitting import fit_network_trial
from platform_assets.vision.views import plots
from platform_assets.vision.views.galleries import captioned_sheet, contact_sheet, mistakes_sheet, pairs_sheet
from platform_tests.benchmarks.demo import DATASET, EXPERIMENT, Frozen, embed_frozen


class Plain:
    """The state of the script: stores, records and what the trials gave."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.tables = Tables(out / "tables")
        self.outputs = Outputs(str(out / "outputs"), scratch=out / "scratch")
        self.runs = Runs(f"sqlite:///{out / 'mlflow.db'}", artifact_root=str(out / "artifacts"))
        self.cache = EmbeddingCache(out / "cache")
        self.root = source_root(DATASET.source, out)
        self.pixels = Pixels(self.root, spill=out / "decoded")
        self.vectors: dict[Frozen, pl.DataFrame] = {}
        self.rows: list[pl.DataFrame] = []
        self.predictions: dict[str, pl.DataFrame] = {}
        self.folders: dict[str, OutputFolder] = {}

    def dataset(self) -> None:
        self.tables.write(["source"], hash_files(self.root, source_files(DATASET.source, self.root)))
        found = scan(DATASET.source.read(self.root), self.root)
        pairs = near_duplicates(found.records, self.load)
        self.label_map, self.records = found.label_map, assign_splits(found.records, DATASET.split)
        schema_problems(self.records)
        shift(*(self.records.filter(pl.col("split") == part) for part in ("train", "test")), alpha=0.05)
        copy_tiny(choose_tiny(self.records), self.root, self.out / "tiny")
        pairs_sheet(pairs, self.records, self.load)
        diff(self.records, self.records)
        self.describe(found.rejected, pairs)

    def describe(self, rejected: pl.DataFrame, pairs: pl.DataFrame) -> None:
        numbers, faults = profile(self.records), image_faults(self.records, scores_by_pixels(self.records, self.load))
        findings = Findings(near_duplicates=near_duplicate_groups(pairs), image_faults=faults)
        plots.class_balance(numbers.counts)
        contact_sheet(self.records, self.load)
        said: dict[str, Any] = {"name": "elpv", "description": "", "version": "v", "label_map": self.label_map}
        said |= {"licence": DATASET.licence, "citation": DATASET.citation}
        said |= {"profile": numbers, "rejected": rejected, "findings": findings}
        page = profile_page(ProfilePageFacts(**said, made_from={}, records=self.records), self.load)
        (self.out / "profile.html").write_text(page)
        data_card(DataCardFacts(**said, split=DATASET.split, responsible_ai=DATASET.responsible_ai))

    def load(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def trial(self, key: str, name: str, seed: int) -> None:
        self.protocol = Protocol(
            dataset="elpv",
            experiment="probes",
            metric=EXPERIMENT.metric,
            label_map_checksum=self.label_map.checksum,
            image_size_px=EXPERIMENT.image_size_px,
            resample=True,
        )
        trial = resolve_trial(EXPERIMENT.variants[name], name=name, seed=seed, protocol=self.protocol)
        started, split = time.time(), assign_splits(self.records, DATASET.split, seed=seed)
        self.folders[key] = self.fit(key, trial, split)
        classifier = load_classifier(Path(self.folders[key].url), expect_label_map=self.label_map)
        frame = self.predict(classifier, trial, split)
        self.predictions[key] = frame
        self.tables.write(["predictions"], frame, key)
        mistakes_sheet(frame, self.load)
        self.report(key, trial, frame, (split, started))

    def vectors_of(self, trial: ResolvedTrial) -> pl.DataFrame:
        frozen = Frozen(trial.backbone, trial.features, trial.preprocessing.preprocessing_id)
        if frozen not in self.vectors:
            self.vectors[frozen] = embed_frozen(trial, self.records, self.root, self.cache)
        return self.vectors[frozen]

    def fit(self, key: str, trial: ResolvedTrial, split: pl.DataFrame) -> OutputFolder:
        work = self.outputs.working("plain", key, trial.config_hash, "v")
        if trial.mode == "linear_probe":
            fitted = fit_probe_trial(trial, split, self.vectors_of(trial), self.label_map)
        else:
            resume = work / "_resume"
            fitted = fit_network_trial(trial, split, self.pixels, self.label_map, device="cpu", work_dir=resume)
        checkpoint = save_checkpoint(fitted.classifier, work, label_map=self.label_map, trial=trial)
        stamp = environment_stamp(
            run_id="plain",
            config_hash=trial.config_hash,
            seed=trial.seed,
            device="cpu",
            fp16=False,
            tiny_train_subset_path=None,
            tiny_infer_subset_path=None,
            repository=Settings().root,
        )
        (work / "env.json").write_text(json.dumps(stamp))
        fitted.history.write_parquet(work / "history.parquet")
        return self.outputs.publish(work, run_id="plain", config_hash=trial.config_hash, checkpoint_id=checkpoint)

    def predict(self, classifier: Classifier, trial: ResolvedTrial, split: pl.DataFrame) -> pl.DataFrame:
        evaluated = split.with_row_index("row").filter(pl.col("split") != "train")
        rows_n = evaluated["row"].to_numpy()
        if trial.mode == "linear_probe":
            with torch.inference_mode():
                logits = classifier.head(torch.from_numpy(features_of(evaluated, self.vectors_of(trial)))).numpy()
        else:
            logits = predict(classifier, self.pixels.rows(split, rows_n, trial.preprocessing))
        rows = evaluated.select("image_id", "path", part="split", label="label")
        return predictions_frame(rows, logits, self.label_map)

    def report(self, key: str, trial: ResolvedTrial, frame: pl.DataFrame, made: tuple[pl.DataFrame, float]) -> None:
        split, started = made
        val, test = (compute_metrics(frame, self.label_map, part) for part in ("val", "test"))
        plots.confusion_matrix(test.confusion, self.label_map.names)
        folder = self.folders[key]
        checkpoint, seconds = folder.manifest().checkpoint_id, time.time() - started
        shots = shots_of(test, self.records, self.label_map)
        slices(frame, split, slice_columns(split, None))
        fitted = calibrate(*logits_and_truth(frame, "val"), UncertaintyOptions())
        row = trial_row(
            trial,
            val=val,
            test=test,
            shots=shots,
            certainty=report_of(fitted, frame),
            comparability=Comparability(
                dataset_version="plain",
                label_map_checksum=self.label_map.checksum,
                split_sha256=split_sha256(split),
                val_ids_sha256=val.image_ids_sha256,
                test_ids_sha256=test.image_ids_sha256,
                protocol=fixed_preprocessing(self.protocol),
                metric_code="plain",
            ),
            checkpoint_id=checkpoint,
            parameters=1,
            train_seconds=seconds,
        )
        self.rows.append(row)
        self.runs.record_trial(
            TrialRun(
                experiment="plain",
                asset="plain",
                partition=key,
                config_hash=trial.config_hash,
                data_version="v",
                dagster_run_id="plain",
                status="FINISHED",
                started_ms=int(started * 1000),
                ended_ms=int(time.time() * 1000),
                checkpoint_id=checkpoint,
                folder_url=folder.url,
                metrics={"test_top1": test.top1},
            )
        )

    def judge_labels(self) -> None:
        vectors = next(iter(self.vectors.values()))
        near_duplicates_by_vectors(self.records, vectors, self.load)
        found = label_faults(self.records, vectors, self.label_map)
        self.tables.write(["label_issues"], found)
        worst = list(found.filter("is_fault")["path"].head(32))
        captioned_sheet(worst, [("", "")] * len(worst), self.load)

    def deliver(self) -> None:
        table = pl.concat(self.rows, how="vertical_relaxed")
        leaderboard(table, self.predictions, baseline=EXPERIMENT.baseline, metric=EXPERIMENT.metric)
        chosen = self.folders[choose_champion(table, metric=EXPERIMENT.metric).trial]
        classifier, onnx = load_classifier(Path(chosen.url)), self.out / "model.onnx"
        files = [self.load(path) for path in self.records.filter(pl.col("split") == "test")["path"][:128]]
        export_onnx(classifier, onnx, label_map=self.label_map, checkpoint_id="plain")
        check_parity(classifier, onnx, files, label_map=self.label_map)
        measure_latency(classifier, onnx)


def main(out: Path) -> None:
    script = Plain(out)
    script.dataset()
    for key, (name, seed) in EXPERIMENT.trials.items():
        script.trial(key, name, seed)
    script.judge_labels()
    script.deliver()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
