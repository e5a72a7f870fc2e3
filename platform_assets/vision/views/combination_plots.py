"""The picture of a soup or ensemble: every average that was judged on val, beside the members alone."""

from __future__ import annotations

import numpy as np
import polars as pl

from platform_assets.vision.views.figures import BLUE, GREY, ORANGE, as_png, blank_figure

_SHOWN_AS = {"alone": "{trial}", "added": "+ {trial}", "uniform": "uniform soup", "combined": "ensemble"}


def combination_steps(history: pl.DataFrame, *, metric: str) -> bytes:
    """One bar a step from the history of a combination, in its order; what was taken is filled."""
    figure, axes = blank_figure(7, 1.2 + 0.3 * history.height)
    rows, place = history.to_dicts(), np.arange(history.height)
    colours = [BLUE if row["step"] == "alone" else ORANGE for row in rows]
    bars = axes.barh(place, history["val_metric"], height=0.6, color=colours, edgecolor=colours)
    for bar, row in zip(bars, rows, strict=True):
        bar.set_fill(row["taken"])
        said = f"  {row['val_metric']:.4f}, loss {row['val_loss']:.4f}"
        axes.text(bar.get_width(), bar.get_y() + 0.3, said, va="center", fontsize=8, color=GREY)
    axes.set_yticks(place, [_SHOWN_AS[row["step"]].format(**row) for row in rows], fontsize=9)
    axes.set_ylim(history.height - 0.4, -0.6)
    axes.set_xlim(0, 1.3)
    axes.set_xlabel(f"{metric} on val; filled: taken")
    return as_png(figure)
