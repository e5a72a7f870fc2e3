"""What saving a training's state costs, what an interruption costs, and that neither changes the weights."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from platform_assets.vision.networks.models import Classifier, build_classifier
from platform_assets.vision.networks.weights import weights_sha256
from platform_assets.vision.recipes.backbones import get_backbone
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.training.job import TrainingStopped
from platform_assets.vision.training.state import STATE_FILE, TrainingState
from platform_assets.vision.training.train import SAVE_EVERY_SECONDS, TrainResult, train

PROJECT = Path(__file__).parents[2]
SIDE_PX, CLASSES, ROUNDS = 96, 8, 5
# Name, whether pretrained, recipe: enough steps for a dozen of seconds on two cores.
CASES = {
    "baseline_cnn": (False, TrainRecipe(epochs=3, batch_size=32, backbone_learning_rate_factor=1.0)),
    "tf_efficientnet_lite0": (True, TrainRecipe(epochs=3, batch_size=32, ema_decay=0.9, freeze_backbone_epochs=1)),
}


@dataclass(frozen=True)
class Saving:
    """One save and one load of a state, in seconds and MB, in the median."""

    save_s: float
    load_s: float
    size_mb: float


def noise_part(images: int, *, seed: int) -> LabelledImages:
    generator = np.random.default_rng(seed)
    images_nchw = generator.integers(0, 256, (images, 3, SIDE_PX, SIDE_PX), dtype=np.uint8)
    ids = tuple(f"{seed}/{number}" for number in range(images))
    return LabelledImages(ids, images_nchw, np.arange(images, dtype=np.int64) % CLASSES)


def run(name: str, folder: Path, **options: object) -> tuple[Classifier, TrainResult]:
    pretrained, recipe = CASES[name]
    preprocessing = get_backbone(name).preprocessing(image_size_px=SIDE_PX)
    classifier = build_classifier(name, CLASSES, preprocessing, pretrained=pretrained, seed=0)
    parts = noise_part(256, seed=1), noise_part(64, seed=2)
    result = train(
        classifier,
        *parts,
        recipe,
        metric="top1",
        seed=0,
        device="cpu",
        work_dir=folder,
        **options,  # type: ignore[arg-type]
    )
    return classifier, result


def measured(folder: Path) -> Saving:
    state_path = folder / STATE_FILE
    fingerprint = torch.load(state_path, weights_only=True)["fingerprint"]
    loads, saves = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        loaded = TrainingState(folder, fingerprint).load()
        assert loaded is not None
        tensors = {key: _copied(value) for key, value in loaded[1].items()}
        loads.append(time.perf_counter() - started)
        started = time.perf_counter()
        TrainingState(folder, fingerprint).save(loaded[0], tensors)
        saves.append(time.perf_counter() - started)
    return Saving(statistics.median(saves), statistics.median(loads), state_path.stat().st_size / 1e6)


def _copied(value: object) -> object:
    """Read from the mapped file."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def killed(name: str, folder: Path, seconds: float) -> None:
    """The same training in a process that is killed that many seconds after its first save."""
    code = f"import torch; from pathlib import Path; from {__name__} import run; torch.set_num_threads(1); "
    code += f"run({name!r}, Path({str(folder)!r}), save_every_seconds=0)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=PROJECT)
    while not (folder / STATE_FILE).exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.bench
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_bench_resume__costs_little_and_changes_no_bit(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    started = time.perf_counter()
    straight, result = run(name, tmp_path / "straight")
    straight_s = time.perf_counter() - started
    saving = measured(tmp_path / "straight")
    generator = np.random.default_rng(0)
    at = []
    for number, seconds in enumerate(generator.uniform(0, straight_s / 3, 3)):
        folder = tmp_path / f"killed_{number}"
        killed(name, folder, float(seconds))
        resumed, again = run(name, folder)
        at.append(again.resumed_from_step)
        assert weights_sha256(resumed) == weights_sha256(straight)
    asked: list[float] = []
    with pytest.raises(TrainingStopped):
        run(
            name,
            tmp_path / "stopped",
            stop_requested=lambda: bool(asked.append(time.perf_counter())) or len(asked) == 3,
        )
    stop_s = time.perf_counter() - asked[-1]

    share = saving.save_s / SAVE_EVERY_SECONDS
    print("\n| backbone | state MB | save s | share at one a minute | load s | stop to saved s | killed at steps |")
    print(
        f"| {name} | {saving.size_mb:.0f} | {saving.save_s:.2f} | {share:.2%} | {saving.load_s:.2f} | {stop_s:.2f} | {at} |"
    )
    assert share < 0.02
    assert len(result.history) == CASES[name][1].epochs
