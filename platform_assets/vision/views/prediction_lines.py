"""The predictions of a trial as JSON Lines, one line an evaluated image."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

from platform_assets.vision.datasets.label_map import LabelMap

PREDICTIONS_JSONL = "predictions.jsonl"
LIKELIEST = 5


def as_jsonl(predictions: pl.DataFrame, label_map: LabelMap) -> bytes:
    """UTF-8 lines by part and path: image_id, path, part, truth, prediction, correct, confidence, and the likeliest labels.

    `likeliest` has up to five labels with their probabilities, best first, equals in the order of the label map.
    """
    rows = predictions.sort("part", "path", "image_id")
    shape = (rows.height, len(label_map.names))
    logits_nk, probabilities_nk = (
        np.array(rows[name].to_list()).reshape(shape) for name in ("logits", "probabilities")
    )
    best_nk = np.argsort(-logits_nk, axis=1, kind="stable")[:, :LIKELIEST]  # two logits may have one probability
    columns = ("image_id", "path", "part", "truth", "prediction", "correct", "confidence")
    lines = []
    for row, best_k, of_k in zip(rows.select(columns).iter_rows(named=True), best_nk, probabilities_nk, strict=True):
        row["confidence"] = round(row["confidence"], 6)
        row["likeliest"] = [{"label": label_map.names[k], "probability": round(float(of_k[k]), 6)} for k in best_k]
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines).encode()
