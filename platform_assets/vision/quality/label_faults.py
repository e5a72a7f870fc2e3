"""Labels that are probably wrong, ranked: out-of-fold probabilities of a probe on frozen vectors. No pictures here."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from platform_assets.vision.datasets.label_map import LabelMap
    from platform_assets.vision.heads.probe import FittedProbe

    Labels = NDArray[np.int64]
    Features = NDArray[np.float32]

LOG10_C_RANGE = (-4.0, -1.0)
"""Four points are enough. 2026-11, grocery, 5 % of labels flipped, recall at any one C from -3 to -1: 0.96 to 0.97."""


class CannotJudgeLabels(ValueError):
    """Records and vectors that give no out-of-fold probabilities, or the extra is not installed."""


def label_faults(
    records: pl.DataFrame,
    vectors: pl.DataFrame,
    label_map: LabelMap,
    *,
    folds: int = 5,
    group_by: str | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """One row an image, the most doubtful label first: rank (from 1), image_id, path, split, label, suggested, score, is_fault.

    `vectors` has image_id and vector. The score is the probability of the label itself (cleanlab's self-confidence) from a
    probe that has seen neither the image nor any of its `group_by`; `suggested` is the likeliest class. `is_fault` is
    cleanlab's own choice (confident learning, Northcutt et al. 2021). An image in two parts is judged once. C is chosen
    in each fold on a part of its training images. Classes with fewer images or groups than folds are left out, unseen by
    the probe too. Raises CannotJudgeLabels.
    """
    import numpy as np
    import polars as pl

    filters, rank = _cleanlab()
    images = records.sort("image_id", "path").unique("image_id", keep="first", maintain_order=True)
    images = _with_enough(images, _groups(images, group_by), folds)
    features_nd, labels_n = _features_and_labels(images, vectors, label_map)
    groups_n = _groups(images, group_by)
    present, labels_of_present = np.unique(labels_n, return_inverse=True)
    probabilities_nk = out_of_fold(features_nd, labels_of_present, groups_n, folds=folds, seed=seed)
    score = rank.get_label_quality_scores(labels_of_present, probabilities_nk, method="self_confidence")
    is_fault = filters.find_label_issues(labels_of_present, probabilities_nk, n_jobs=1)
    names = np.array(label_map.names, dtype=object)[present[probabilities_nk.argmax(axis=1)]]
    found = images.select("image_id", "path", "split", "label").with_columns(
        suggested=pl.Series(list(names), dtype=pl.String),
        score=pl.Series(score, dtype=pl.Float64),
        is_fault=pl.Series(is_fault, dtype=pl.Boolean),
    )
    return found.sort("score", "image_id").with_row_index("rank", offset=1)


def out_of_fold(
    features_nd: Features, labels_n: Labels, groups_n: Labels, *, folds: int, seed: int
) -> NDArray[np.float64]:
    """probabilities [n, k] of every image, from the fold that it was left out of; rows add up to 1.

    Labels run from 0 to k - 1, and each has images. Folds are stratified, and a group is in one of them.
    """
    import numpy as np
    from scipy.special import softmax
    from sklearn.model_selection import StratifiedGroupKFold

    classes = int(labels_n.max()) + 1
    probabilities_nk = np.zeros((len(labels_n), classes))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, held_out in splitter.split(features_nd, labels_n, groups_n):
        inner = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        fit, choose = next(iter(inner.split(features_nd[train], labels_n[train], groups_n[train])))
        probe = _probe(features_nd[train], labels_n[train], fit, choose, classes)
        probabilities_nk[held_out] = softmax(features_nd[held_out] @ probe.weight_kd.T + probe.bias_k, axis=1)
    return probabilities_nk


def _probe(features_nd: Features, labels_n: Labels, fit: Labels, choose: Labels, classes: int) -> FittedProbe:
    """C by log loss: fitted on the rows `fit`, chosen on the rows `choose`, then fitted on both."""
    from platform_assets.vision.heads.probe import fit_probe
    from platform_assets.vision.recipes.probe_options import ProbeRecipe

    low, high = LOG10_C_RANGE
    grid = ProbeRecipe(log10_c_min=low, log10_c_max=high, points=4, max_iterations=300, tolerance=1e-3)
    parts = [(features_nd[rows], labels_n[rows]) for rows in (fit, choose)]
    chosen = fit_probe(parts[0], parts[1], num_classes=classes, recipe=grid, metric="top1").log10_c
    at_it = grid.model_copy(update={"log10_c_min": chosen, "log10_c_max": chosen, "points": 1})
    whole = (features_nd, labels_n)
    return fit_probe(whole, whole, num_classes=classes, recipe=at_it, metric="top1")


def _cleanlab() -> tuple[ModuleType, ModuleType]:
    try:
        import cleanlab.filter
        import cleanlab.rank
    except ModuleNotFoundError as error:
        raise CannotJudgeLabels(
            f"{error.name} is not installed; label faults need the extra `quality`: `uv pip install 'kestrel-vision[quality]'`"
        ) from error
    return cleanlab.filter, cleanlab.rank


def _features_and_labels(images: pl.DataFrame, vectors: pl.DataFrame, label_map: LabelMap) -> tuple[Features, Labels]:
    import numpy as np

    if len(without := images.join(vectors, on="image_id", how="anti")):
        raise CannotJudgeLabels(
            f"{len(without)} of {len(images)} images have no vector, the first is {without['path'][0]}; embed them first"
        )
    features_nd = images.join(vectors, on="image_id", maintain_order="left")["vector"].to_numpy()
    return features_nd, np.array([label_map.index(label) for label in images["label"]], dtype=np.int64)


def _groups(images: pl.DataFrame, group_by: str | None) -> Labels:
    """A number for each image, the same for images of one group; an image without a group is one by itself."""
    import numpy as np
    import polars as pl

    if group_by is None:
        return np.arange(len(images))
    if group_by not in images.columns:
        raise CannotJudgeLabels(f"group_by {group_by!r} is not a column of the records {images.columns}; correct it")
    named = pl.coalesce("group " + pl.col(group_by).cast(pl.String), "image " + pl.col("image_id"))
    return images.select(named.rank("dense").cast(pl.Int64)).to_series().to_numpy()


def _with_enough(images: pl.DataFrame, groups_n: Labels, folds: int) -> pl.DataFrame:
    """The images of classes with an image (or group) for every fold: another some fold would judge without having seen it."""
    import polars as pl

    units = images.select("label", group=pl.Series(groups_n)).group_by("label").agg(units=pl.col("group").n_unique())
    few = units.filter(pl.col("units") < folds).sort("units", "label")
    if len(units) - len(few) < 2:
        named = ", ".join(f"{label} ({count})" for label, count in few.head(5).iter_rows())
        raise CannotJudgeLabels(
            f"{len(few)} of {len(units)} classes have fewer than {folds} images or groups: {named}; two with as many are needed"
        )
    return images.join(few, on="label", how="anti", maintain_order="left")
