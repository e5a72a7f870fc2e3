"""The number of threads that torch computes with: measured, kept, and the same until a training has ended."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.networks.weights import weights_sha256
from platform_assets.vision.training import computing_threads as measuring
from platform_assets.vision.training.computing_threads import (
    MeasuredThreads,
    ThreadsChoice,
    choose_threads,
    computing_threads,
)
from platform_assets.vision.training.job import TrainingStopped
from platform_tests.vision.trainings import RECIPE, SmallNet, net_classifier, run


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As torch takes them on a machine of two cores."""
    monkeypatch.setattr(measuring, "candidate_threads", lambda: [1, 2])
    with computing_threads(2):
        yield


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests use the machine meanwhile."""
    monkeypatch.setattr(measuring, "_OTHERS_MAX", float("inf"))


class Waits(SmallNet):
    """A forward pass takes 30 ms a thread, and is counted."""

    passes = 0

    def forward(self, x_bchw: torch.Tensor) -> torch.Tensor:
        Waits.passes += 1
        time.sleep(0.03 * torch.get_num_threads())
        return super().forward(x_bchw)


def waits() -> Classifier:
    Waits.passes = 0
    return net_classifier(Waits)


def choice(classifier: Classifier, folder: Path | None, batches: int = 5000, **given: Any) -> ThreadsChoice:
    return choose_threads(classifier, given.pop("recipe", RECIPE), batches, folder=folder, **{"device": "cpu", **given})


@pytest.mark.usefixtures("idle")
def test_choose_threads__takes_what_is_clearly_faster_and_keeps_it(tmp_path: Path) -> None:
    classifier = waits()
    found = choice(classifier, tmp_path)
    assert found.threads == 1
    assert "images/s by threads 1: " in found.why
    measured = Waits.passes
    assert choice(classifier, tmp_path) == found
    assert Waits.passes == measured > 2
    (kept,) = tmp_path.iterdir()
    kept.write_text("{")
    assert choice(classifier, tmp_path).threads == 1
    assert Waits.passes > measured, "what cannot be read is measured again"


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    "other",
    [{"batches": 999}, {"device": "cuda"}, {"recipe": RECIPE.model_copy(update={"devices": 2})}, {"folder": None}],
)
def test_choose_threads__torchs_own_where_measuring_does_not_pay(tmp_path: Path, other: dict[str, Any]) -> None:
    found = choice(waits(), **{"folder": tmp_path, **other})
    assert (found.threads, Waits.passes, list(tmp_path.iterdir())) == (2, 0, [])
    assert "torch's own number" in found.why


def test_choose_threads__a_busy_machine_is_not_measured(tmp_path: Path) -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        found = choice(waits(), tmp_path)
    finally:
        busy.kill()
        busy.wait()
    assert (found.threads, list(tmp_path.iterdir())) == (2, [])
    assert "others used" in found.why


@pytest.mark.usefixtures("idle")
def test_choose_threads__leaves_classifier_and_random_numbers_as_they_were(tmp_path: Path) -> None:
    classifier, stream = net_classifier(), torch.get_rng_state()
    before = weights_sha256(classifier)
    choice(classifier, tmp_path, recipe=RECIPE.model_copy(update={"drop_path": 0.0, "deterministic": True}))
    assert weights_sha256(classifier) == before
    assert not classifier.training
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.get_num_threads() == 2
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.parametrize(
    ("rates", "threads"), [({8: 10, 4: 12, 2: 13}, 8), ({8: 10, 4: 12, 2: 14}, 4), ({8: 1, 1: 9}, 1)]
)
def test_measured_threads__the_most_that_nothing_is_clearly_faster_than(rates: dict[int, float], threads: int) -> None:
    assert MeasuredThreads(facts={}, images_per_second=rates).threads == threads


def test_train__goes_on_with_the_threads_it_began_with(tmp_path: Path) -> None:
    asked, seen = iter(range(6)), list[int]()
    with pytest.raises(TrainingStopped):
        run(tmp_path, threads=lambda: 2, stop_requested=lambda: next(asked) == 2)
    torch.set_num_threads(1)
    _, result = run(tmp_path, threads=lambda: 1, stop_requested=lambda: bool(seen.append(torch.get_num_threads())))
    assert (result.resumed_from_step, result.threads, seen) == (2, 2, [2] * 4)
    assert torch.get_num_threads() == 1
