"""How often the gate promotes: a challenger that loses just what it may, an equal one, a better one; beside the plain rule."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.evaluation.gate_evidence import compare
from platform_assets.vision.evaluation.gates import Gate, compared, decide
from platform_assets.vision.evaluation.predictions import predictions_frame

AB = LabelMap(names=("a", "b"))
IMAGES, MARGIN, REPETITIONS = 600, 0.02, 1000
INCUMBENT, ONLY_ONE = 0.85, 0.10
"""Accuracy of the incumbent, and the share of images that only one of the two gets right."""


def pair(difference: float, random: np.random.Generator) -> list[pl.DataFrame]:
    """Challenger and incumbent on images drawn anew; `difference` is what a test part without end would show."""
    only_challenger, only_incumbent = (ONLY_ONE + difference) / 2, (ONLY_ONE - difference) / 2
    both = INCUMBENT - only_incumbent
    cell_n = random.choice(4, size=IMAGES, p=[both, only_challenger, only_incumbent, 1 - INCUMBENT - only_challenger])
    truth_n = np.arange(IMAGES) % 2
    ids = [f"{number:04}" for number in range(IMAGES)]
    rows = pl.DataFrame({"image_id": ids, "path": ids, "part": "test", "label": [AB.names[i] for i in truth_n]})
    right = ([0, 1], [0, 2])
    predicted = [np.where(np.isin(cell_n, cells), truth_n, 1 - truth_n) for cells in right]
    return [predictions_frame(rows, np.eye(2, dtype=np.float32)[n] * 3, AB) for n in predicted]


@pytest.mark.bench
@pytest.mark.parametrize(("difference", "least", "most"), [(-MARGIN, 0.0, 0.04), (0.0, 0.2, 0.5), (MARGIN, 0.7, 1.0)])
def test_gate__promotes_as_often_as_it_says(difference: float, least: float, most: float) -> None:
    random, promoted, plain = np.random.default_rng(0), 0, 0
    for _ in range(REPETITIONS):
        one, other = pair(difference, random)
        found = compare(one, other, metric="top1")
        promoted += decide(compared(found, Gate(max_regression=MARGIN), "top1"), summary="").verdict == "promoted"
        plain += found.challenger - found.incumbent >= -MARGIN
    print(
        f"difference {difference:+.2f}: promoted {promoted / REPETITIONS:.3f}, by the plain rule {plain / REPETITIONS:.3f}"
    )
    assert least <= promoted / REPETITIONS <= most
