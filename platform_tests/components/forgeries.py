"""Evaluations that were made up, in every place and in agreement."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from platform_assets.stores.outputs import OutputFolder
from platform_assets.stores.tables import Tables
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.calibration import calibrate
from platform_assets.vision.evaluation.calibration_report import report_of
from platform_assets.vision.evaluation.predictions import compute_metrics, logits_and_truth, predictions_frame
from platform_assets.vision.recipes.uncertainty_options import UncertaintyOptions


def forged(
    tables: Tables, folder: OutputFolder, key: Sequence[str], trial: str
) -> tuple[list[Path], Callable[[], None]]:
    """The files that say how good a trial is, and what writes them all anew as of a model that is always right."""
    names = ("predictions.parquet", "metrics.json", "calibration.json", "MANIFEST.json")
    paths = [folder.path("config.json").with_name(name) for name in names]
    paths += [tables.root.joinpath(*key, asset, f"{trial}.parquet") for asset in ("predictions", "metrics")]

    def forge() -> None:
        label_map = LabelMap.from_json(folder.path("labelmap.json").read_text())
        frame, row = (tables.read([*key, asset], trial) for asset in ("predictions", "metrics"))
        logits_nk = 5 * np.eye(len(label_map), dtype=np.float32)[frame["truth_index"].to_numpy()]
        frame = predictions_frame(
            frame.select("image_id", "path", "part", "group", label="truth"), logits_nk, label_map
        )
        said = json.loads(paths[1].read_bytes())
        for part in ("val", "test"):
            found = compute_metrics(frame, label_map, part).model_dump(mode="json")
            said[part] = found
            for name, value in found.items():
                low, high = value if name.endswith("_interval") and value else (None, None)
                stem = f"{part}_{name.removesuffix('_interval')}"
                columns = {f"{part}_{name}": value, f"{stem}_low": low, f"{stem}_high": high}
                known = {k: pl.lit(v, row.schema[k]) for k, v in columns.items() if k in row.columns and v is not None}
                row = row.with_columns(**known)
        fitted = calibrate(*logits_and_truth(frame, "val"), UncertaintyOptions())
        on_test = report_of(fitted, frame)
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        folder.add("predictions.parquet", buffer.getvalue())
        folder.add("metrics.json", json.dumps(said).encode())
        certainty = {"calibration": fitted.model_dump(mode="json"), "on_test": on_test.model_dump(mode="json")}
        folder.add("calibration.json", json.dumps(certainty).encode())
        tables.write([*key, "predictions"], frame, trial)
        tables.write([*key, "metrics"], row, trial)

    return paths, forge
