"""The number of loading threads is measured, in time, and is the fewest that are fast."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.training.loading import choose_workers, fewest_fast
from platform_tests.vision.shapes import coloured_shapes

PART = coloured_shapes(64, seed=0)


class _Slow(np.ndarray):  # type: ignore[type-arg]
    """Images on a disk that takes 6 ms to find one, and can look for several at once."""

    def __getitem__(self, row):  # type: ignore[no-untyped-def]
        if isinstance(row, int):
            time.sleep(0.006)
        return np.asarray(super().__getitem__(row))


def _part(images_nchw: np.ndarray) -> LabelledImages:  # type: ignore[type-arg]
    return LabelledImages(PART.image_ids, images_nchw, PART.labels_n)


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)


def test_choose_workers__as_many_as_a_slow_disk_needs() -> None:
    recipe = TrainRecipe(augmentation="none", epochs=10_000)
    started = time.perf_counter()
    workers, rates = choose_workers(_part(PART.images_nchw.view(_Slow)), recipe, seconds_budget=0.8)
    assert time.perf_counter() - started < 3
    assert list(rates) == [0, 1, 2, 4]
    assert rates[0] < 1000 / 6
    assert max(rates.values()) > 1.5 * rates[0]
    assert workers == fewest_fast(rates)
    assert workers > 0


@pytest.mark.parametrize(
    ("rates", "fewest"),
    [
        ({0: 100.0, 1: 90.0, 2: 80.0}, 0),
        ({0: 91.0, 1: 100.0, 2: 100.0}, 0),
        ({0: 89.0, 1: 88.0, 2: 100.0}, 2),
        ({0: 50.0, 1: 55.0, 2: 100.0, 4: 180.0, 8: 185.0}, 4),
    ],
)
def test_fewest_fast__within_a_tenth_of_the_fastest(rates: dict[int, float], fewest: int) -> None:
    assert fewest_fast(rates) == fewest


def test_choose_workers__a_short_training_is_not_measured_out() -> None:
    workers, rates = choose_workers(PART, TrainRecipe(epochs=1), seconds_budget=0.5)
    assert workers == 0
    assert list(rates) == [0]


@pytest.mark.parametrize(("epochs", "measured"), [(1, [1]), (10_000, [1, 2, 4])])
def test_choose_workers__an_accelerator_does_not_wait_for_the_thread_that_drives_it(
    epochs: int, measured: list[int]
) -> None:
    """No thread was the fastest in the measurement, and a GPU would have stood still while its batch was made."""
    recipe = TrainRecipe(augmentation="none", epochs=epochs)
    workers, rates = choose_workers(PART, recipe, device="cuda", seconds_budget=0.2)
    assert workers >= 1
    assert list(rates) == measured
