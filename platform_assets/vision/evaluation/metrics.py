"""The figures of one trial on one part as records, as metrics.json holds them. They are computed in measurement.py."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from platform_assets.vision.datasets.splits import Part

Interval = tuple[float, float]
HEADLINES = (
    *("top1", "top5", "balanced_accuracy", "macro_f1", "micro_f1", "loss", "brier", "ece"),
    *("macro_auroc", "macro_ap", "cost_accuracy"),
)
"""The figures of a part that have an interval, `<name>_interval`."""


class ClassMetrics(BaseModel):
    """One class in one part, against all others; `images` is its support. A figure is None where it is not defined:
    its denominator is zero, or, for AUROC, every image is of the class or none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    label: str
    images: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None = None
    ap: float | None = None


class CoarseMetrics(BaseModel):
    """The same predictions, each taken for the coarse label of its class. `mistakes_within` is the share of wrong
    predictions whose coarse label is right; None when nothing is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    labels: tuple[str, ...]
    top1: float
    top1_interval: Interval
    macro_f1: float
    mistakes_within: float | None
    confusion: tuple[tuple[int, ...], ...]


class Metrics(BaseModel):
    """The figures of one trial on one part, 0 to 1 except `loss` (nats), `brier` (0 to 2) and `mean_cost`.

    `top5` is top-min(5, classes). `macro_f1` averages over the classes present in truth or predictions,
    `balanced_accuracy` over those present in truth; `micro_f1` equals `top1`, since every image has one label. `brier` is
    summed over the classes. `ece` has 15 equal bins. `macro_auroc` and `macro_ap` are means over the classes where one
    against the rest is defined, None when it is for none. `cost_accuracy` is 1 less the cost of the predictions over that
    of the worst ones; `mean_cost` is theirs an image; None without costs, or when no mistake costs anything. `confusion`
    has the truth in rows. `coarse` is None where classes have no coarse labels.

    Intervals are 95 % bootstraps over `units`: groups of images where the records have groups, images elsewhere. They are
    percentiles; of `ece` reflected about the figure (basic), because resampling adds to it what sampling has added before.
    None where a resample leaves the figure undefined. AUROC and AP are resampled to first order (`ranking_scores.py`). A class
    of few images is missing from many resamples: intervals of macro averages say little then.

    What has a default is missing in files that older versions wrote.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    part: Part
    images: int
    units: int | None = None
    image_ids_sha256: str
    label_map_checksum: str
    top1: float
    top1_interval: Interval
    top5: float
    top5_interval: Interval | None = None
    balanced_accuracy: float
    balanced_accuracy_interval: Interval | None = None
    macro_f1: float
    macro_f1_interval: Interval
    micro_f1: float | None = None
    micro_f1_interval: Interval | None = None
    loss: float
    loss_interval: Interval | None = None
    brier: float | None = None
    brier_interval: Interval | None = None
    ece: float
    ece_interval: Interval | None = None
    macro_auroc: float | None = None
    macro_auroc_interval: Interval | None = None
    macro_ap: float | None = None
    macro_ap_interval: Interval | None = None
    cost_accuracy: float | None = None
    cost_accuracy_interval: Interval | None = None
    mean_cost: float | None = None
    coarse: CoarseMetrics | None = None
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
