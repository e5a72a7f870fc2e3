"""The state file: whole or not there, and of this training or passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from platform_assets.vision.training.state import (
    STATE_FILE,
    EpochRow,
    EpochSums,
    Progress,
    StepFigures,
    TrainingState,
    UnreadableTrainingState,
    fingerprint_of,
)


def _row(epoch: int, *, val_metric: float = 0.5, val_loss: float = 1.0) -> EpochRow:
    return EpochRow(
        epoch=epoch,
        train_loss=0.1,
        val_loss=val_loss,
        val_metric=val_metric,
        learning_rate=1e-3,
        seconds=0.1 + 0.2,
        images_per_second=100.0,
    )


def test_training_state__comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state = TrainingState(tmp_path, "mine")
    step = StepFigures(loss=0.1 + 0.2, images=3, gradient_norm=1 / 3)
    progress = Progress(threads=1).after_step(step, 0.5).after_epoch(_row(1)).after_step(step, 0.1)
    state.save(progress, {"model": {"weight": torch.tensor([0.1, float("nan")])}})
    loaded = state.load()
    assert loaded is not None
    assert loaded[0] == progress
    torch.testing.assert_close(loaded[1]["model"]["weight"], torch.tensor([0.1, float("nan")]), equal_nan=True)
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_training_state__of_another_training_is_passed_over(tmp_path: Path) -> None:
    assert TrainingState(tmp_path, "mine").load() is None
    TrainingState(tmp_path, "other").save(Progress(threads=1), {})
    assert TrainingState(tmp_path, "mine").load() is None


def test_training_state__interrupted_save_leaves_the_one_before(tmp_path: Path) -> None:
    state = TrainingState(tmp_path, "mine")
    state.save(Progress(threads=1), {})
    (tmp_path / STATE_FILE).with_suffix(".partial").write_bytes(b"half a file")
    assert state.load() == (Progress(threads=1), {})
    with pytest.raises(TypeError):
        state.save(Progress(threads=1).after_epoch(_row(1)), {"not storable": (number for number in (1, 2))})
    assert state.load() == (Progress(threads=1), {})


def test_training_state__names_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"not a state")
    with pytest.raises(UnreadableTrainingState, match="delete it to train from the start"):
        TrainingState(tmp_path, "mine").load()


def test_progress__best_by_metric_then_loss_then_the_earlier() -> None:
    progress = Progress(threads=1)
    assert progress.best_epoch == progress.epoch == 0
    bests = []
    rows = [(0.5, 1.0), (0.4, 0.1), (0.5, 1.0), (0.5, 0.9), (0.6, 2.0)]
    for epoch, (val_metric, val_loss) in enumerate(rows, start=1):
        progress = progress.after_epoch(_row(epoch, val_metric=val_metric, val_loss=val_loss))
        bests.append(progress.best_epoch)
    assert bests == [1, 1, 1, 4, 5]
    assert progress.epoch == 5


def test_progress__sums_of_an_epoch_weigh_by_images_and_begin_anew() -> None:
    progress = Progress(threads=1)
    for loss, images, norm in ((1.0, 4, 3.0), (4.0, 2, None)):
        progress = progress.after_step(StepFigures(loss=loss, images=images, gradient_norm=norm), 0.5)
    assert progress.steps == 2
    assert progress.sums == EpochSums(images=6, loss=12.0, norms=1, gradient_norm=3.0, seconds=1.0)
    after = progress.after_epoch(_row(1))
    assert (after.steps, after.epoch, after.sums) == (2, 1, EpochSums())


def test_fingerprint__knows_the_facts_and_not_their_order() -> None:
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1}) != fingerprint_of({"a": 1, "b": 3})
