"""Vectors of images on a plane: where the classes lie, and where the mistakes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from platform_assets.vision.views.figures import BLUE, GREY, ORANGE, as_png, blank_figure, shown, tidy

Floats = NDArray[np.floating]

# Beyond it t-SNE takes seconds, and points hide each other.
MAPPED_IMAGES = 500
_COMPONENTS = 50
_FEWEST_FOR_TSNE = 10


def embedding_map(vectors_nd: NDArray[np.float32], labels: Sequence[str], *, named: int = 10) -> bytes:
    """The first two principal components of standardised vectors, coloured by class; beyond `named` classes the
    most frequent are named and the others grey."""
    points_nk, shares = _principal(vectors_nd, 2)
    figure, axes = blank_figure(7, 5)
    _by_class(axes, points_nk, labels, named)
    axes.set_xlabel(f"component 1 ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"component 2 ({shares[1]:.0%})")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return as_png(figure)


def neighbour_points(vectors_nd: NDArray[np.float32], *, seed: int = 0) -> Floats:
    """points_n2 by t-SNE (van der Maaten and Hinton 2008) of the first 50 principal components, started from the first two.

    Fewer than ten vectors are shown by their principal components.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    points_nk, _ = _principal(vectors_nd, _COMPONENTS)
    if len(points_nk) < _FEWEST_FOR_TSNE:
        return points_nk[:, :2]
    spread = points_nk[:, 0].std()
    noise_n2 = np.random.default_rng(seed).normal(scale=1e-4, size=(len(points_nk), 2))
    start_n2 = points_nk[:, :2] / spread * 1e-4 if spread > 0 else noise_n2
    perplexity = min(30.0, (len(points_nk) - 1) / 3)
    fitted = TSNE(perplexity=perplexity, init=start_n2.astype(np.float32), random_state=seed, max_iter=350)
    # On a busy machine its threads wait for each other at every step: 8 s in place of 0.5 (2026-11).
    with threadpool_limits(1):
        points_n2: Floats = fitted.fit_transform(points_nk.astype(np.float32))
    return points_n2


def error_map(points_n2: Floats, truths: Sequence[str], correct: Sequence[bool], *, named: int = 10) -> bytes:
    """The same points twice: coloured by their true class, and by whether the prediction is right."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    classes, errors = figure.subplots(1, 2)
    _by_class(classes, points_n2, truths, named)
    right = np.asarray(correct, dtype=bool)
    wrong_named = f"wrong ({(~right).sum():,} of {len(right):,})"
    errors.scatter(points_n2[right, 0], points_n2[right, 1], s=6, color=BLUE, alpha=0.35, label="right")
    errors.scatter(points_n2[~right, 0], points_n2[~right, 1], s=16, color=ORANGE, marker="x", label=wrong_named)
    for axes, title in ((classes, "by class"), (errors, "by error")):
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        tidy(axes)
        axes.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3)
    return as_png(figure)


def _principal(vectors_nd: NDArray[np.float32], most: int) -> tuple[Floats, Floats]:
    """points_nk of standardised vectors on their first components, two to `most`, and each one's share of the variance."""
    spread = vectors_nd.std(axis=0)
    scaled = (vectors_nd - vectors_nd.mean(axis=0)) / np.where(spread > 0, spread, 1)
    # By the smaller of the two products of the vectors with themselves: a tenth of the time of an SVD.
    by_image = len(scaled) <= scaled.shape[1]
    variances, axes = np.linalg.eigh(scaled @ scaled.T if by_image else scaled.T @ scaled)
    strengths, axes = variances[::-1].clip(min=0), axes[:, ::-1][:, :most]
    points_nk = axes * np.sqrt(strengths[:most]) if by_image else scaled @ axes
    lacking = max(0, 2 - points_nk.shape[1])  # one vector alone has one component
    shares = np.append(strengths, np.zeros(lacking)) / max(float(strengths.sum()), 1e-12)
    return np.pad(points_nk, ((0, 0), (0, lacking))), shares


def _by_class(axes: Axes, points_n2: Floats, labels: Sequence[str], named: int) -> None:
    array = np.asarray(labels)
    found, counts = np.unique(array, return_counts=True)
    frequent = found[np.argsort(-counts, kind="stable")][:named]
    others = ~np.isin(array, frequent)
    more = f"{len(found) - named} more" if others.any() else None
    axes.scatter(points_n2[others, 0], points_n2[others, 1], s=6, color=GREY, alpha=0.3, label=more)
    for name in frequent:
        axes.scatter(points_n2[array == name, 0], points_n2[array == name, 1], s=8, alpha=0.6, label=shown(str(name)))
