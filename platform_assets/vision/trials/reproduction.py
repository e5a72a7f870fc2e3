"""The first difference between what a trial left behind and what came out when it was made again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import safe_open

_TIMINGS = ("seconds", "images_per_second")
_ABSENT = "absent"


def facts_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Each fact, by its dotted name, that is not what it was. A fact that only one side has is one too."""
    before, after = dict(_flat(then)), dict(_flat(now))
    for name in [*before, *(name for name in after if name not in before)]:
        was, is_now = before.get(name, _ABSENT), after.get(name, _ABSENT)
        if was != is_now:
            yield f"{name} was {was!r}, is {is_now!r}"


def metrics_difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first figure, by its dotted name, that differs; figures that only one side knows are of another Kestrel."""
    before, after = dict(_flat(then)), dict(_flat(now))
    shared = [name for name in before if name in after]
    return next(
        (f"{name} was {before[name]!r}, is {after[name]!r}" for name in shared if before[name] != after[name]), None
    )


def weights_difference(then: Path, now: Path) -> str | None:
    """The first tensor, by name, of two safetensors files that differs, or what the files say of themselves."""
    with safe_open(then, framework="numpy") as old, safe_open(now, framework="numpy") as new:
        if names := sorted(set(old.keys()) ^ set(new.keys())):
            return f"tensor {names[0]} is in one file alone, as are {len(names) - 1} more"
        differ = [name for name in sorted(old.keys()) if not _same(old.get_tensor(name), new.get_tensor(name))]
        if differ:
            first, count = differ[0], len(old.keys())
            return f"tensor {first} {_apart(old.get_tensor(first), new.get_tensor(first))}; {len(differ)} of {count} differ"
        if old.metadata() != new.metadata():
            return f"all tensors are the same, and the file says {new.metadata()} in place of {old.metadata()}"
    return None


def history_difference(then: pl.DataFrame, now: pl.DataFrame) -> str | None:
    """The first row of a training curve, or of the choices tried, that differs; times do not count."""
    shared = [name for name in then.columns if name in now.columns and name not in _TIMINGS]
    for number, (was, is_now) in enumerate(zip(then.select(shared).rows(), now.select(shared).rows(), strict=False), 1):
        for name, before, after in zip(shared, was, is_now, strict=True):
            if before != after and not (before != before and after != after):
                return f"row {number} of the history: {name} was {before!r}, is {after!r}"
    if then.height != now.height:
        return f"the history has {now.height} rows, it had {then.height}"
    return None


def predictions_difference(then: pl.DataFrame, now: pl.DataFrame) -> str | None:
    """The first image whose logits differ in any bit, with how many do and how many labels changed."""
    joined = then.join(now, on=["part", "image_id"], suffix="_now", maintain_order="left")
    if not then.height == joined.height == now.height:
        return f"{then.height} images were evaluated, {now.height} are now, {joined.height} of them the same"
    differ = joined.filter(pl.col("logits") != pl.col("logits_now"))
    if differ.is_empty():
        return None
    first = differ.row(0, named=True)
    gap = np.abs(np.subtract(first["logits"], first["logits_now"], dtype=np.float64)).max()
    changed = joined.filter(pl.col("prediction") != pl.col("prediction_now")).height
    return (
        f"image {first['path']} ({first['part']}): logits differ by up to {gap:.3g}; those of {differ.height} of "
        f"{joined.height} images do, and {changed} predictions are other labels"
    )


def _same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _apart(was: np.ndarray[Any, Any], now: np.ndarray[Any, Any]) -> str:
    if (was.dtype, was.shape) != (now.dtype, now.shape):
        return f"was {was.dtype} {was.shape}, is {now.dtype} {now.shape}"
    gap = np.abs(was.astype(np.float64) - now.astype(np.float64))
    return f"differs in {np.count_nonzero(was != now):,} of {was.size:,} values, by up to {np.nanmax(gap):.3g}"


def _flat(facts: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(facts, Mapping):
        for name, value in facts.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(facts, list | tuple) and facts and isinstance(facts[0], Mapping | list | tuple):
        for number, value in enumerate(facts):
            yield from _flat(value, f"{prefix}[{number}]")
    else:
        yield prefix, list(facts) if isinstance(facts, tuple) else facts
