"""The course of a trial as a TensorBoard event file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

# The name is fixed: TensorBoard looks for "tfevents" in it, and a clock, host or process id would tell runs apart that
# are the same.
EVENT_FILE = "events.out.tfevents.0.kestrel"

# Column of a history (one row an epoch) or of a probe's candidates (one row a value of C) to TensorBoard key.
KEYS = {
    "train_loss": "train/loss",
    "val_loss": "val/loss",
    "train_metric": "train/{metric}",
    "val_metric": "val/{metric}",
    "learning_rate": "lr",
    "images_per_second": "images_per_second",
    "gradient_norm": "gradient_norm",
    "log10_c": "log10_c",
}


def write_tensorboard(folder: Path, history: pl.DataFrame, *, metric: str) -> Path:
    """Write EVENT_FILE into `folder`: the KEYS by epoch, by grid point for a probe. Returns its path.

    The wall time of an event is its step, so that the same history gives the same bytes.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary

    events = ((step, [Summary.Value(tag=key, simple_value=value)]) for step, key, value in _scalars(history, metric))
    return write_events(folder, ((step, Summary(value=values)) for step, values in events))


def write_events(folder: Path, summaries: Iterable[tuple[int, Summary]]) -> Path:
    """Write EVENT_FILE into `folder`: each summary at its step, whole or not at all. Returns its path."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / ".part"
    with beside.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
        for step, summary in summaries:
            writer.write(Event(wall_time=step, step=step, summary=summary).SerializeToString())
    return beside.replace(folder / EVENT_FILE)


def _scalars(history: pl.DataFrame, metric: str) -> Iterator[tuple[int, str, float]]:
    """Step, key and value of what there is: a cell without a value is no event."""
    steps = history["epoch"].to_list() if "epoch" in history.columns else range(1, history.height + 1)
    for column, key in KEYS.items():
        if column in history.columns:
            for step, value in zip(steps, history[column], strict=True):
                if value is not None:
                    yield step, key.format(metric=metric), float(value)
