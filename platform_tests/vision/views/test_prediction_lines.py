"""predictions.jsonl: one line an evaluated image, with what the model thought of it."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.predictions import predictions_frame
from platform_assets.vision.views.prediction_lines import as_jsonl

NAMES = tuple(f'{letter} "ü" \\n' for letter in "abcdefg")
LABELS = LabelMap(names=NAMES)
LOGIT = st.floats(-50, 50, width=32)


@given(st.lists(st.lists(LOGIT, min_size=7, max_size=7), max_size=20))
def test_as_jsonl__one_line_an_image_and_the_likeliest_first(logits: list[list[float]]) -> None:
    images = len(logits)
    rows = pl.DataFrame(
        {
            "image_id": [f"{n:064x}" for n in range(images)],
            "path": [f"ä/{n}.png" for n in range(images)],
            "part": ["val" if n % 3 else "test" for n in range(images)],
            "label": [NAMES[n % 7] for n in range(images)],
        },
        schema=dict.fromkeys(("image_id", "path", "part", "label"), pl.String),
    )
    frame = predictions_frame(rows, np.array(logits, dtype=np.float32).reshape(images, 7), LABELS)
    text = as_jsonl(frame, LABELS).decode()
    lines = [json.loads(line) for line in text.split("\n")[:-1]]
    assert text == "" or text.endswith("\n")
    assert len(lines) == images
    by_id = {row["image_id"]: row for row in frame.to_dicts()}
    assert by_id.keys() == {line["image_id"] for line in lines}
    for line in lines:
        row = by_id[line["image_id"]]
        assert all(line[name] == row[name] for name in ("path", "part", "truth", "prediction", "correct"))
        likeliest = [each["probability"] for each in line["likeliest"]]
        assert line["likeliest"][0]["label"] == line["prediction"]
        assert likeliest == sorted(likeliest, reverse=True)
        assert len({each["label"] for each in line["likeliest"]}) == len(likeliest) == 5
        assert abs(line["confidence"] - row["confidence"]) < 1e-6
