"""What the leaderboard says in words of each variant against the baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from platform_assets.components.experiment_spec import ExperimentSpec
from platform_assets.components.leaderboard_steps import conclusion
from platform_assets.vision.evaluation.leaderboards import leaderboard
from platform_assets.vision.evaluation.predictions import predictions_frame
from platform_tests.vision.trial_rows import AB, experiment_of, predictions_of, trial_of

CNN = {"backbone": "baseline_cnn", "mode": "scratch"}


def spec_of(variants: dict[str, Any], **changes: Any) -> ExperimentSpec:
    plain = {"name": "first", "dataset": "photos", "description": "x", "image_size_px": 32, "baseline": "base"}
    return ExperimentSpec.model_validate({**plain, "variants": variants, **changes})


def rare(right: int, wrong: int) -> pl.DataFrame:
    """One in ten is b: so many of the sixty are found, and so many of the others are taken for it."""
    truth_n = (np.arange(600) < 60).astype(int)
    predicted_n = np.concatenate([np.arange(60) < right, np.arange(540) < wrong]).astype(int)
    frames = []
    for part in ("val", "test"):
        ids = [f"{part}{number:03}" for number in range(600)]
        rows = pl.DataFrame({"image_id": ids, "path": ids, "part": part, "label": [AB.names[k] for k in truth_n]})
        frames.append(predictions_frame(rows, np.eye(2, dtype=np.float32)[predicted_n] * 3, AB))
    return pl.concat(frames)


def test_conclusion__is_of_top1_and_a_difference_in_macro_f1_is_not_called_none() -> None:
    """35 images of the rare class won and 35 of the other lost: p was 1 and macro-F1 22 points better."""
    trials = [trial_of("base", 0, rare(5, 0)), trial_of("other", 0, rare(40, 35))]
    board = leaderboard(*experiment_of(trials), baseline="base", metric="macro_f1")
    said = conclusion(board, spec_of({"base": CNN, "other": CNN}))
    assert said.startswith("- `other` shows no significant difference to `base` in top-1 (paired test, ")
    assert "Holm-corrected p = 1, on 1 shared seed(s)); macro_f1 +0.2178 (+0." in said


def test_conclusion__a_difference_in_top1_is_one() -> None:
    trials = [trial_of(name, 0, predictions_of(right, right)) for name, right in (("base", 20), ("other", 36))]
    board = leaderboard(*experiment_of(trials), baseline="base", metric="top1")
    said = conclusion(board, spec_of({"base": CNN, "other": CNN}, metric="top1"))
    assert said.startswith("- `other` differs from `base` in top-1 (paired test, ")


def test_conclusion__a_combination_of_three_seeds_is_one_trial() -> None:
    """It was said to share all three with the baseline."""
    trials = [trial_of("base", seed, predictions_of(20, 20)) for seed in (0, 1, 2)]
    board = leaderboard(
        *experiment_of([*trials, trial_of("soup", 0, predictions_of(21, 21))]), baseline="base", metric="top1"
    )
    spec = spec_of({"base": CNN, "soup": {"mode": "soup", "of": ["base"]}}, metric="top1", seeds=[0, 1, 2])
    assert "on 1 shared seed(s)" in conclusion(board, spec)
