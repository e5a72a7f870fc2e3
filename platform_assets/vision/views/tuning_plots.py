"""Pictures of a search: its trials in order, and what its parameters matter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from matplotlib.ticker import MaxNLocator

from platform_assets.vision.views.figures import BLUE, GREY, ORANGE, as_png, blank_figure


def tuning_history(trials: pl.DataFrame, *, metric: str) -> bytes:
    """The value of every trial in order and the best so far, from `Tuning.table`; pruned trials are hollow."""
    figure, axes = blank_figure(7, 3.4)
    for state, face in (("complete", BLUE), ("pruned", "none")):
        rows = trials.filter((pl.col("state") == state) & pl.col("value").is_not_null())
        if rows.height:
            axes.scatter(rows["number"], rows["value"], s=22, facecolors=face, edgecolors=BLUE, label=state)
    complete = trials.filter(pl.col("state") == "complete").sort("number")
    best = np.maximum.accumulate(complete["value"].to_numpy())
    numbers = [*complete["number"], trials["number"][-1]]
    axes.step(numbers, [*best, best[-1]], where="post", color=ORANGE, label=f"best, {best[-1]:.4f}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{metric} on val")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return as_png(figure)


def importance_bars(importances: Mapping[str, float]) -> bytes:
    """The share of each parameter in the variance of the value, from `Tuning.importances`, in its order."""
    figure, axes = blank_figure(7, 1.1 + 0.34 * len(importances))
    place, shares = np.arange(len(importances)), np.array(list(importances.values()))
    axes.barh(place, shares, color=BLUE, height=0.6)
    for row, share in enumerate(shares):
        axes.text(share, row, f"  {share:.2f}", va="center", fontsize=9, color=GREY)
    axes.set_yticks(place, list(importances), fontsize=9)
    axes.set_ylim(len(importances) - 0.4, -0.6)
    axes.set_xlim(0, max(float(shares.max()), 0.01) * 1.15)
    axes.set_xlabel("share of the variance over the space (fANOVA)")
    return as_png(figure)
