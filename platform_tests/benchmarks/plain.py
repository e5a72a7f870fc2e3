"""The demo graph as one plain script: the same calls of the vision and stores layers, without Dagster.

python -m platform_tests.benchmarks.plain OUT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import polars as pl

from platform_assets.settings import Settings
from platform_assets.stores.embeddings import EmbeddingCache
from platform_assets.stores.outputs import Outputs
from platform_assets.stores.runs import Runs, TrialRun
from platform_assets.stores.stamps import environment_stamp
from platform_assets.stores.tables import Tables
from platform_tests.benchmarks.demo import DATASET, EXPERIMENT, Frozen, embed_frozen


def main(out: Path) -> None:
    from platform_assets.vision import plots
    from platform_assets.vision.checkpoints import load_classifier, save_checkpoint
    from platform_assets.vision.comparison import choose_champion, leaderboard, trial_row
    from platform_assets.vision.evaluation import compute_metrics, predict, predictions_frame
    from platform_assets.vision.exporting import check_parity, export_onnx, measure_latency
    from platform_assets.vision.fitting import Pixels, features_of, fit_network_trial, fit_probe_trial
    from platform_assets.vision.galleries import contact_sheet, mistakes_sheet
    from platform_assets.vision.profile import profile
    from platform_assets.vision.recipes import Protocol, resolve_trial
    from platform_assets.vision.scanning import hash_files, scan, source_files
    from platform_assets.vision.sources import source_root
    from platform_assets.vision.splits import assign_splits
    from platform_assets.vision.tiny import choose_tiny, copy_tiny

    tables, outputs = Tables(out / "tables"), Outputs(str(out / "outputs"), scratch=out / "scratch")
    runs = Runs(f"sqlite:///{out / 'mlflow.db'}", artifact_root=str(out / "artifacts"))
    cache, root = EmbeddingCache(out / "cache"), source_root(DATASET.source, out)
    tables.write(["source"], hash_files(root, source_files(DATASET.source, root)))
    found = scan(DATASET.source, root)
    records = assign_splits(found.records, DATASET.split)
    copy_tiny(choose_tiny(records), root, out / "tiny")
    plots.class_balance(profile(records).counts)
    contact_sheet(records, lambda path: (root / path).read_bytes())
    protocol = Protocol(
        dataset="elpv",
        experiment="probes",
        metric=EXPERIMENT.metric,
        label_map_checksum=found.label_map.checksum,
        image_size_px=EXPERIMENT.image_size_px,
        resample=True,
    )
    pixels, vectors = Pixels(root), {}
    rows, predictions, folders = [], {}, {}
    for key, (name, seed) in EXPERIMENT.trials.items():
        started = time.time()
        trial = resolve_trial(EXPERIMENT.variants[name], name=name, seed=seed, protocol=protocol)
        split = assign_splits(records, DATASET.split, seed=seed)
        work = outputs.working("plain", key, trial.config_hash, "v")
        if trial.mode == "linear_probe":
            frozen = Frozen(trial.backbone, trial.features, trial.preprocessing.preprocessing_id)
            if frozen not in vectors:
                vectors[frozen] = embed_frozen(trial, records, root, cache)
            fitted = fit_probe_trial(trial, split, vectors[frozen], found.label_map)
        else:
            fitted = fit_network_trial(trial, split, pixels, found.label_map, device="cpu", work_dir=work / "_resume")
        checkpoint = save_checkpoint(fitted.classifier, work, label_map=found.label_map, trial=trial)
        stamp = environment_stamp(
            run_id="plain",
            config_hash=trial.config_hash,
            seed=seed,
            device="cpu",
            fp16=False,
            tiny_train_subset_path=None,
            tiny_infer_subset_path=None,
            repository=Settings().root,
        )
        (work / "env.json").write_text(json.dumps(stamp))
        fitted.history.write_parquet(work / "history.parquet")
        folder = outputs.publish(work, run_id="plain", config_hash=trial.config_hash, checkpoint_id=checkpoint)
        folders[key] = folder
        classifier = load_classifier(Path(folder.url), expect_label_map=found.label_map)
        evaluated = split.with_row_index("row").filter(pl.col("split") != "train")
        if trial.mode == "linear_probe":
            import torch

            with torch.inference_mode():
                logits = classifier.head(torch.from_numpy(features_of(split, vectors[frozen]))).numpy()
        else:
            logits = predict(classifier, pixels.of(split, trial.preprocessing))
        frame = predictions_frame(
            evaluated.select("image_id", "path", part="split", label="label"),
            logits[evaluated["row"].to_numpy()],
            found.label_map,
        )
        predictions[key] = frame
        tables.write(["predictions"], frame, key)
        mistakes_sheet(frame, lambda path: (root / path).read_bytes())
        val, test = (compute_metrics(frame, found.label_map, part) for part in ("val", "test"))
        plots.confusion_matrix(test.confusion, found.label_map.names)
        rows.append(
            trial_row(
                trial, val=val, test=test, checkpoint_id=checkpoint, parameters=1, train_seconds=time.time() - started
            )
        )
        runs.record_trial(
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
    table = pl.concat(rows, how="vertical_relaxed")
    leaderboard(table, predictions, baseline=EXPERIMENT.baseline, metric=EXPERIMENT.metric)
    chosen = folders[choose_champion(table, metric=EXPERIMENT.metric).trial]
    classifier = load_classifier(Path(chosen.url))
    test_files = [(root / path).read_bytes() for path in records.filter(pl.col("split") == "test")["path"][:128]]
    export_onnx(classifier, out / "model.onnx", label_map=found.label_map, checkpoint_id="plain")
    check_parity(classifier, out / "model.onnx", test_files, label_map=found.label_map)
    measure_latency(classifier, out / "model.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
