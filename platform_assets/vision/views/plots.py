"""The plots of a dataset, its trials and its champion, as PNG bytes small enough for Dagster's event log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from platform_assets.vision.views.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    as_png,
    blank_figure,
    legend_above,
    shown,
    tidy,
)

PART_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}

_NAMED_CLASSES = 60
_NUMBERED_CLASSES = 25


def class_balance(counts: pl.DataFrame) -> bytes:
    """Images of each class by part, from `profile.class_counts`: named bars, or a curve by rank beyond 60 classes."""
    ordered = counts.sort("total", "label", descending=[True, False])
    figure = _class_bars(ordered) if ordered.height <= _NAMED_CLASSES else _class_ranks(ordered)
    return as_png(figure)


def _class_bars(counts: pl.DataFrame) -> Figure:
    figure, axes = blank_figure(7, 1.1 + 0.21 * counts.height)
    place = np.arange(counts.height)
    left = np.zeros(counts.height)
    for part in _parts(counts):
        widths = counts[part].to_numpy()
        axes.barh(place, widths, left=left, color=PART_COLOURS[part], label=part, height=0.8)
        left = left + widths
    for row, total in enumerate(counts["total"]):
        axes.text(total, row, f" {total:,}", va="center", fontsize=8, color=GREY)
    axes.set_yticks(place, [shown(name) for name in counts["label"]], fontsize=8)
    axes.set_ylim(counts.height - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, float(left.max())) * 1.1)
    axes.set_xlabel("images")
    legend_above(axes)
    return figure


def _class_ranks(counts: pl.DataFrame) -> Figure:
    figure, axes = blank_figure(7, 3.6)
    rank = np.arange(1, counts.height + 1)
    bottom = np.zeros(counts.height)
    for part in _parts(counts):
        heights = counts[part].to_numpy()
        axes.bar(rank, heights, bottom=bottom, width=1.0, color=PART_COLOURS[part], label=part)
        bottom = bottom + heights
    largest, smallest = (_named_counts(rows) for rows in (counts.head(3), counts.tail(3)))
    axes.set_title(f"{counts.height} classes. Most: {largest}. Fewest: {smallest}.", fontsize=8, wrap=True, loc="left")
    axes.set_xlim(0.5, counts.height + 0.5)
    axes.set_xlabel("class, by number of images")
    axes.set_ylabel("images")
    axes.legend(frameon=False)
    return figure


def _named_counts(counts: pl.DataFrame) -> str:
    return ", ".join(f"{shown(name)} {total:,}" for name, total in counts.select("label", "total").rows())


def _parts(counts: pl.DataFrame) -> list[str]:
    return [part for part in PART_COLOURS if part in counts.columns]


OPTION_NAMES = {
    "log10_c": "log10 C (right: less regularization)",
    "log10_scale": "log10 of the scale of the logits",
    "k": "neighbours k",
    "round": "boosting round",
}


def learning_curves(history: pl.DataFrame, *, metric: str) -> bytes:
    """Loss and val metric by epoch, from the history of a training (one EpochRow a row); the epoch taken is marked."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = history["epoch"]
    best_epoch = history.sort("val_metric", "val_loss", "epoch", descending=[True, False, False])["epoch"][0]
    losses.plot(epochs, history["train_loss"], color=BLUE, marker=".", label="train, as optimised")
    losses.plot(epochs, history["val_loss"], color=ORANGE, marker=".", label="val")
    scores.plot(epochs, history["val_metric"], color=ORANGE, marker=".", label="val")
    for axes, name in ((losses, "loss (nats)"), (scores, metric)):
        axes.axvline(best_epoch, color=GREY, linestyle=":", label=f"best epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(name)
        axes.set_xlim(0.5, history.height + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        tidy(axes)
        axes.legend(edgecolor="none", fontsize=8)
    return as_png(figure)


def selection_curve(candidates: pl.DataFrame, *, option: str, metric: str) -> bytes:
    """Metric and loss on val for every value of a head's option, one line a choice of features; the chosen one is marked."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    scores, losses = figure.subplots(1, 2)
    chosen = candidates.filter("chosen").row(0, named=True)
    if "features" not in candidates.columns:
        candidates, chosen = candidates.with_columns(features=pl.lit("all")), {**chosen, "features": "all"}
    for features in candidates["features"].unique(maintain_order=True):
        tried, taken = candidates.filter(pl.col("features") == features).sort(option), features == chosen["features"]
        style: dict[str, Any] = {"marker": ".", "color": ORANGE if taken else GREY, "alpha": 1.0 if taken else 0.6}
        scores.plot(tried[option], tried["val_metric"], label=f"val, {features}", **style)
        losses.plot(tried[option], tried["val_loss"], label=f"val, {features}", **style)
        if taken and "train_metric" in tried.columns:
            scores.plot(tried[option], tried["train_metric"], color=BLUE, marker=".", label="train")
    for axes, name in ((scores, metric), (losses, "loss (nats)")):
        axes.axvline(chosen[option], color=GREY, linestyle=":", label=f"chosen, {chosen[option]:g}")
        axes.set_xlabel(OPTION_NAMES.get(option, option))
        axes.set_ylabel(name)
        tidy(axes)
        axes.legend(edgecolor="none", fontsize=8)
    return as_png(figure)


def confusion_matrix(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> bytes:
    """Truth in rows, prediction in columns, coloured by the share of the truth; numbers are images.

    Up to 25 classes cells carry their number, up to 60 the axes their names; beyond that the worst pairs are named.
    """
    counts = np.asarray(matrix)
    classes = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(9.0, 3.2 + 0.28 * classes)
    figure, axes = blank_figure(side + 0.9, side)
    gamma = 1.0 if classes <= _NUMBERED_CLASSES else 0.5  # single mistakes stay visible without their numbers
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(gamma, vmin=0, vmax=1), interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the truth")
    if classes <= _NAMED_CLASSES:
        size = 9 if classes <= _NUMBERED_CLASSES else 5.5
        axes.set_xticks(range(classes), [shown(name) for name in names], rotation=90, fontsize=size)
        axes.set_yticks(range(classes), [shown(name) for name in names], fontsize=size)
    if classes <= _NUMBERED_CLASSES:
        _write_cells(axes, counts, shares)
    else:
        axes.set_title(f"Most confused: {_worst_pairs(counts, names)}.", fontsize=9, wrap=True, loc="left")
    by_index = "" if classes <= _NAMED_CLASSES else ", by index in the label map"
    axes.set_xlabel(f"prediction{by_index}")
    axes.set_ylabel(f"truth{by_index}")
    return as_png(figure)


def _write_cells(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "black"
        axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8, color=colour)


def _worst_pairs(counts: NDArray[np.int64], names: Sequence[str], most: int = 4) -> str:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(cell), len(names)) for cell in order]
    said = [f"{shown(names[r])} as {shown(names[c])} ({wrong[r, c]})" for r, c in cells if wrong[r, c]]
    return ", ".join(said) or "none"


def reliability_diagram(bins: pl.DataFrame) -> bytes:
    """Accuracy against confidence in equal bins, from `evaluation.reliability_bins`, with the images of each bin."""
    figure = Figure(figsize=(4.8, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    low, width = bins["low"].to_numpy(), (bins["high"] - bins["low"]).to_numpy()
    upper.bar(low, bins["accuracy"], width=width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    upper.plot(bins["confidence"], bins["accuracy"], "o", color=ORANGE, markersize=4, label="at mean confidence")
    upper.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="calibrated")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    upper.set_ylabel("accuracy")
    upper.set_title(f"{bins['images'].sum():,} images", fontsize=10, loc="left")
    upper.legend(frameon=False, fontsize=8, loc="upper left")
    lower.bar(low, bins["images"], width=width, align="edge", color=GREY, edgecolor="white")
    lower.set_xlabel("confidence")
    lower.set_ylabel("images")
    for axes in (upper, lower):
        tidy(axes)
    return as_png(figure)


def leaderboard_bars(board: pl.DataFrame) -> bytes:
    """The test metric of each variant with its 95 % interval, from `comparison.leaderboard`, in its order.

    The baseline is grey, with a line at its mean.
    """
    figure, axes = blank_figure(7, 1.2 + 0.34 * board.height)
    place = np.arange(board.height)
    mean, low, high = (board[f"test_{name}"].to_numpy() for name in ("mean", "low", "high"))
    is_baseline = board["difference"].is_null().to_list()
    axes.barh(place, mean, color=[GREY if base else BLUE for base in is_baseline], height=0.6)
    reach = np.stack([mean - low, high - mean]).clip(min=0)
    axes.errorbar(mean, place, xerr=reach, fmt="none", ecolor="black", capsize=3, linewidth=1)
    for row, value in enumerate(mean):
        axes.text(max(value, high[row]), row, f"  {value:.3f}", va="center", fontsize=9)
    axes.axvline(mean[is_baseline.index(True)], color=GREY, linestyle=":", zorder=0)
    axes.set_yticks(place, [shown(name) for name in board["variant"]])
    axes.set_ylim(board.height - 0.4, -0.6)
    axes.set_xlim(0, max(float(high.max()), 0.01) * 1.12)
    axes.set_xlabel(f"{board['metric'][0]} on test, 95 % interval")
    return as_png(figure)


def latency_bars(latency: pl.DataFrame) -> bytes:
    """p50 of each engine and batch size in ms per batch, with a line up to p95, from `exporting.measure_latency`."""
    rows = latency.sort("batch_size", "engine")
    figure, axes = blank_figure(7, 1.2 + 0.34 * rows.height)
    place = np.arange(rows.height)
    p50, p95 = rows["p50_ms"].to_numpy(), rows["p95_ms"].to_numpy()
    axes.barh(place, p50, color=[GREY if engine == "torch" else BLUE for engine in rows["engine"]], height=0.6)
    axes.errorbar(p50, place, xerr=[0 * p50, p95 - p50], fmt="none", ecolor="black", capsize=3, linewidth=1)
    for row, (value, high, rate) in enumerate(zip(p50, p95, rows["images_per_s"], strict=True)):
        axes.text(max(value, high), row, f"  {value:.1f} ms, {rate:.0f} images/s", va="center", fontsize=9)
    axes.set_yticks(place, [f"{engine}, batch {size}" for engine, size in rows.select("engine", "batch_size").rows()])
    axes.set_ylim(rows.height - 0.4, -0.6)
    axes.set_xlim(0, float(p95.max()) * 1.4)
    axes.set_xlabel("ms a batch: p50, line to p95")
    return as_png(figure)
