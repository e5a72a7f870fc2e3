"""The training loop on generated shapes: it learns, stops, resumes to the bit and names what breaks it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from platform_assets.vision.datasets import LabelledImages
from platform_assets.vision.evaluation import predict
from platform_assets.vision.models import Classifier
from platform_assets.vision.scores import score
from platform_assets.vision.train_options import TrainRecipe
from platform_assets.vision.training import NonFiniteLoss, TrainingStopped, TrainResult, rate_factor, train
from platform_assets.vision.training_state import STATE_FILE, EpochRow
from platform_assets.vision.weights import weights_sha256
from platform_tests.vision.shapes import coloured_shapes, small_classifier

TRAIN, VAL, TEST = (coloured_shapes(images, seed=seed) for images, seed in ((60, 1), (30, 2), (90, 3)))
RECIPE = TrainRecipe(epochs=4, batch_size=16, backbone_learning_rate_factor=1.0)

TO_BE_KILLED = """
import sys, time, torch
from pathlib import Path
from platform_tests.vision import test_training

def report(row):
    print(row.epoch, flush=True)
    if row.epoch == 3:
        time.sleep(600)

torch.set_num_threads(1)
test_training.run(Path(sys.argv[1]), on_epoch=report)
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The order of summation follows the number of threads; equality to the bit needs the same number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(
    work_dir: Path, recipe: TrainRecipe = RECIPE, *, classifier: Classifier | None = None, **options: object
) -> tuple[Classifier, TrainResult]:
    arguments = {"train_part": TRAIN, "val_part": VAL, "metric": "top1", "seed": 0, "device": "cpu"} | options
    classifier = classifier or small_classifier()
    return classifier, train(classifier, recipe=recipe, work_dir=work_dir, **arguments)  # type: ignore[arg-type]


def _without_seconds(result: TrainResult) -> list[dict[str, object]]:
    return result.history.drop("seconds").to_dicts()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, TrainResult]:
    """One training that nothing interrupted."""
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("straight"))


def test_train__learns_the_shapes(tmp_path: Path) -> None:
    recipe = TrainRecipe(epochs=6, batch_size=16, augmentation="dihedral", backbone_learning_rate_factor=1.0)
    classifier, result = run(tmp_path, recipe, train_part=coloured_shapes(180, seed=1))
    top1 = score(predict(classifier, TEST.images_nchw), TEST.labels_n, "top1")
    assert top1 > 0.9, result.history
    assert not classifier.training


def test_train__two_runs_end_with_the_same_weights(straight: tuple[Classifier, TrainResult], tmp_path: Path) -> None:
    classifier, result = run(tmp_path)
    assert weights_sha256(classifier) == weights_sha256(straight[0])
    assert _without_seconds(result) == _without_seconds(straight[1])


def test_train__another_seed_ends_elsewhere(straight: tuple[Classifier, TrainResult], tmp_path: Path) -> None:
    classifier, _ = run(tmp_path, seed=1)
    assert weights_sha256(classifier) != weights_sha256(straight[0])


def test_train__killed_and_resumed_equals_uninterrupted(
    straight: tuple[Classifier, TrainResult], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TO_BE_KILLED, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    heard = [process.stdout.readline().strip() for _ in range(2)]
    process.kill()
    process.wait()
    assert (heard, process.returncode) == (["1", "2"], -9)
    classifier, result = run(tmp_path)
    assert 2 <= result.resumed_from_epoch < RECIPE.epochs
    assert weights_sha256(classifier) == weights_sha256(straight[0])
    assert _without_seconds(result) == _without_seconds(straight[1])


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_train__interrupted_from_inside_goes_on_to_the_same_end(
    straight: tuple[Classifier, TrainResult], tmp_path: Path, interruption: type[BaseException]
) -> None:
    def interrupt(row: EpochRow) -> None:
        if row.epoch == 3:
            raise interruption

    with pytest.raises(interruption):
        run(tmp_path, on_epoch=interrupt)
    heard: list[EpochRow] = []
    classifier, result = run(tmp_path, on_epoch=heard.append)
    assert result.resumed_from_epoch == 3
    assert [row.epoch for row in heard] == [4]
    assert weights_sha256(classifier) == weights_sha256(straight[0])


def test_train__stops_within_a_batch_of_the_request(straight: tuple[Classifier, TrainResult], tmp_path: Path) -> None:
    batches = iter(range(100))
    with pytest.raises(TrainingStopped, match="in epoch 2; epochs 1 to 1 are saved"):
        run(tmp_path, stop_requested=lambda: next(batches) == 5)
    classifier, result = run(tmp_path, stop_requested=lambda: False)
    assert result.resumed_from_epoch == 1
    assert weights_sha256(classifier) == weights_sha256(straight[0])


def test_train__finished_state_is_taken_as_it_is(straight: tuple[Classifier, TrainResult], tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / STATE_FILE).stat().st_mtime_ns
    classifier, result = run(tmp_path)
    assert result.resumed_from_epoch == RECIPE.epochs
    assert weights_sha256(classifier) == weights_sha256(straight[0])
    assert (tmp_path / STATE_FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["recipe", "seed", "metric", "val", "labels", "start"])
def test_train__state_of_another_training_is_passed_over(tmp_path: Path, change: str) -> None:
    smoke = TrainRecipe(epochs=2, batch_size=16, max_steps=1, warmup_epochs=0)
    run(tmp_path, smoke)
    relabelled = LabelledImages(TRAIN.image_ids, TRAIN.images_nchw, TRAIN.labels_n[::-1].copy())
    changed: dict[str, dict[str, object]] = {
        "recipe": {"recipe": smoke.model_copy(update={"weight_decay": 0.0})},
        "seed": {"seed": 1},
        "metric": {"metric": "macro_f1"},
        "val": {"val_part": TEST},
        "labels": {"train_part": relabelled},
        "start": {"classifier": small_classifier(seed=5)},
    }
    _, result = run(tmp_path, **({"recipe": smoke} | changed[change]))  # type: ignore[arg-type]
    assert result.resumed_from_epoch == 0


def test_train__early_stop_keeps_the_best_epoch(tmp_path: Path) -> None:
    # So high a rate that epochs get worse before they get better.
    recipe = TrainRecipe(epochs=20, batch_size=32, patience_epochs=2, learning_rate=0.3, warmup_epochs=0)
    best: list[str] = []
    classifier = small_classifier()

    def remember(row: EpochRow) -> None:
        best.append(weights_sha256(classifier))

    _, result = run(tmp_path, recipe, classifier=classifier, on_epoch=remember)
    assert result.stopped_early
    assert result.history.height == result.best_epoch + 2 < 20
    assert weights_sha256(classifier) == best[result.best_epoch - 1] != best[-1]
    table = result.history.sort(["val_metric", "val_loss"], descending=[True, False])
    assert table["epoch"][0] == result.best_epoch


def test_train__max_steps_ends_a_smoke_run(tmp_path: Path) -> None:
    _, result = run(tmp_path, TrainRecipe(epochs=5, batch_size=16, max_steps=6))
    assert result.history["epoch"].to_list() == [1, 2]
    assert not result.stopped_early


def test_train__names_the_images_of_a_batch_that_is_no_number(tmp_path: Path) -> None:
    classifier = small_classifier()
    with torch.no_grad():
        classifier.head.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="training loss is nan in epoch 1, step 0") as caught:
        run(tmp_path, classifier=classifier)
    assert len(caught.value.image_ids) == 15
    assert set(caught.value.image_ids) < set(TRAIN.image_ids)
    assert all(image_id in str(caught.value) for image_id in caught.value.image_ids)
    assert not (tmp_path / STATE_FILE).exists()


def test_train__last_batch_of_one_image_does_not_happen(tmp_path: Path) -> None:
    part = LabelledImages(TRAIN.image_ids[:17], TRAIN.images_nchw[:17], TRAIN.labels_n[:17])
    _, result = run(tmp_path, TrainRecipe(epochs=1, batch_size=16), train_part=part)
    assert result.history["train_loss"].is_finite().all()


def test_train__backbone_rate_factor_slows_the_backbone(tmp_path: Path) -> None:
    moved, stem = [], "backbone.stem.0.weight"
    for factor in (1e-3, 1.0):
        recipe = TrainRecipe(epochs=1, batch_size=16, max_steps=2, backbone_learning_rate_factor=factor, weight_decay=0)
        classifier, _ = run(tmp_path / str(factor), recipe)
        change = classifier.get_parameter(stem) - small_classifier().get_parameter(stem)
        moved.append(float(change.detach().abs().max()))
    assert moved[0] < moved[1] / 100


def test_rate_factor__warms_up_then_falls_as_a_cosine() -> None:
    factors = [rate_factor(step, total_steps=10, warmup_steps=2) for step in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx(0.5)
    assert all(np.diff(factors[2:]) < 0)
    assert 0 < factors[-1] < 0.05
    assert rate_factor(0, total_steps=1, warmup_steps=50) == 1.0


def test_train__leaves_only_its_state_file(tmp_path: Path) -> None:
    run(tmp_path / "work", TrainRecipe(epochs=1, batch_size=32))
    assert [path.name for path in (tmp_path / "work").iterdir()] == [STATE_FILE]
