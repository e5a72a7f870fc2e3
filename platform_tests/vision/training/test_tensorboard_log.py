"""Event files, read back as TensorBoard reads them."""

from pathlib import Path

import polars as pl
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from platform_assets.vision.training.tensorboard_log import write_tensorboard

HISTORY = pl.DataFrame(
    {
        "epoch": [1, 2, 3],
        "train_loss": [1.5, 1.0, 0.5],
        "val_loss": [1.6, 1.2, 1.1],
        "val_metric": [0.3, 0.5, 0.7],
        "learning_rate": [1e-3, 5e-4, 0.0],
        "seconds": [2.0, 1.0, 1.0],
        "images_per_second": [20.0, 30.0, 30.0],
        "gradient_norm": [None, 2.0, 1.0],
    }
)


def _read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {key: [(e.step, e.value) for e in events.Scalars(key)] for key in events.Tags()["scalars"]}


def test_write_tensorboard__history_of_a_training(tmp_path: Path) -> None:
    write_tensorboard(tmp_path / "tb", HISTORY, metric="macro_f1")
    found = _read(tmp_path / "tb")
    assert set(found) == {"train/loss", "val/loss", "val/macro_f1", "lr", "images_per_second", "gradient_norm"}
    assert found["val/macro_f1"] == [(1, pytest.approx(0.3)), (2, pytest.approx(0.5)), (3, pytest.approx(0.7))]
    assert found["lr"][-1] == (3, 0.0)
    assert found["images_per_second"][0] == (1, 20.0)
    assert found["gradient_norm"] == [(2, 2.0), (3, 1.0)]


def test_write_tensorboard__candidates_of_a_probe_by_grid_point(tmp_path: Path) -> None:
    candidates = pl.DataFrame(
        {"log10_c": [-2.0, 0.0], "train_metric": [0.8, 1.0], "val_metric": [0.7, 0.6], "chosen": [True, False]}
    )
    write_tensorboard(tmp_path, candidates, metric="top1")
    found = _read(tmp_path)
    assert set(found) == {"log10_c", "train/top1", "val/top1"}
    assert found["log10_c"] == [(1, -2.0), (2, 0.0)]


def test_write_tensorboard__again_gives_the_same_bytes_and_one_file(tmp_path: Path) -> None:
    """Two files of one run in a folder show as one zigzag; other bytes would make a retried run differ from itself."""
    first = write_tensorboard(tmp_path, HISTORY, metric="top1").read_bytes()
    again = write_tensorboard(tmp_path, HISTORY.with_columns(seconds=pl.lit(9.0)), metric="top1")
    assert again.read_bytes() == first
    assert list(tmp_path.iterdir()) == [again]
