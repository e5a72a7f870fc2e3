"""Pictures of a search fit the event log and show the numbers they were given."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from platform_assets.vision.trials.tuning import State, TuningTrial, trials_table
from platform_assets.vision.views.figures import MAX_PICTURE_BYTES
from platform_assets.vision.views.tuning_plots import importance_bars, tuning_history


def trial(number: int, state: State, value: float | None, **more: Any) -> TuningTrial:
    epochs = {} if value is None else {1: value - 0.1, 2: value}
    return TuningTrial(
        number=number, state=state, value=value, seconds=1.0, epoch_values=epochs, parameters=more, reason=None
    )


def search(trials: int) -> pl.DataFrame:
    found = [trial(n, "complete" if n % 3 == 0 else "pruned", 0.5 + 0.4 * n / trials) for n in range(trials)]
    return trials_table([*found, trial(trials, "failed", None), trial(trials + 1, "interrupted", None)], [])


def read(picture: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(picture))
    image.load()
    return image


@pytest.mark.parametrize("trials", [1, 4, 400])
def test_tuning_history__fits_the_event_log(trials: int) -> None:
    picture = tuning_history(search(trials), metric="macro_f1")
    assert read(picture).width > 300
    assert len(picture) < MAX_PICTURE_BYTES


def test_tuning_history__shows_the_values() -> None:
    table = search(9)
    changed = table.with_columns(value=pl.when(pl.col("number") == 6).then(0.9).otherwise("value"))
    one, other = (np.asarray(read(tuning_history(t, metric="top1")).convert("L")) for t in (table, changed))
    assert (one != other).any()


@pytest.mark.parametrize("parameters", [1, 5])
def test_importance_bars__are_as_long_as_the_shares(parameters: int) -> None:
    shares = {f"train.backbone_learning_rate_factor_{n}": 1 / 2**n for n in range(parameters)}
    image = np.asarray(read(importance_bars(shares)).convert("RGB")).astype(int)
    lengths_px = (abs(image - (0x00, 0x72, 0xB2)).max(axis=2) < 24).sum(axis=1)
    bars = np.flatnonzero(np.diff((lengths_px > 3).astype(int)) == 1) + 3
    assert lengths_px[bars] / lengths_px[bars[0]] == pytest.approx(list(shares.values()), abs=0.02)


def test_trials_table__a_column_of_mixed_values_is_json() -> None:
    trials = [
        trial(0, "complete", 0.5, rate=None, loss="focal", mixed="none"),
        trial(1, "complete", 0.5, rate=0.5, mixed=2),
    ]
    table = trials_table(trials, ["rate", "loss", "mixed"])
    assert table["rate"].to_list() == [None, 0.5]
    assert table["loss"].to_list() == ["focal", None]
    assert table["mixed"].to_list() == ['"none"', "2"]
    assert trials_table([], ["rate"]).columns == ["number", "state", "value", "seconds", "epochs", "rate", "reason"]
