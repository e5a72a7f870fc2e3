"""Units to parts: quotas a stratum for single images, the part that lacks most for groups of them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from platform_assets.vision.datasets.splits import Part

Stratum = tuple[object, ...]


def allot_images(
    strata: dict[str, Stratum], labels: dict[str, str], order: Sequence[str], fractions: dict[Part, float]
) -> dict[str, Part]:
    """Quotas within each stratum, rounded so that no stratum is a whole image off and the totals come out too.

    The rounding errors are carried from one stratum to the next (error diffusion): a hundred classes of five images
    at 0.1 give val fifty images, not none or a hundred. With the label among
    the strata, the first image of every label goes to train.
    """
    members: dict[Stratum, list[str]] = defaultdict(list)
    for unit in order:
        members[strata[unit]].append(unit)
    carried = dict.fromkeys(fractions, 0.0)
    trained: set[str] = set()
    allotted: dict[str, Part] = {}
    for units in members.values():
        label = labels[units[0]]
        counts = _rounded_quotas(len(units), fractions, carried, train_first=label not in trained)
        trained.add(label)
        parts = [part for part, count in counts.items() for _ in range(count)]
        allotted.update(zip(units, parts, strict=True))
    return allotted


def _rounded_quotas(
    size: int, fractions: dict[Part, float], carried: dict[Part, float], *, train_first: bool
) -> dict[Part, int]:
    """Whole images a part. Changes `carried`: what each part was given too little so far."""
    exact = {part: size * fraction for part, fraction in fractions.items()}
    counts: dict[Part, int] = {part: math.floor(quota + 1e-9) for part, quota in exact.items()}
    for part, quota in exact.items():
        carried[part] += quota - counts[part]
    open_parts = [part for part, quota in exact.items() if quota - counts[part] > 1e-9]
    for _ in range(size - sum(counts.values())):
        if train_first and not counts["train"]:
            chosen: Part = "train"
        else:
            chosen = max(open_parts, key=lambda part: carried[part])
        if chosen in open_parts:
            open_parts.remove(chosen)
        counts[chosen] += 1
        carried[chosen] -= 1
    return counts


def allot_groups(
    units: Sequence[str],
    strata: Sequence[Stratum],
    labels: Sequence[str],
    order: Sequence[str],
    fractions: dict[Part, float],
) -> dict[str, Part]:
    """Whole groups, the largest first, each to the part where it brings strata and total nearest to their quotas.

    The cost is the squared distance to the quota relative to the stratum's size, as in sklearn's StratifiedGroupKFold,
    which has folds but no fractions. The last group that holds a label goes to train if train lacks the label.
    """
    contents: dict[str, Counter[Stratum]] = defaultdict(Counter)
    group_labels: dict[str, set[str]] = defaultdict(set)
    for unit, stratum, label in zip(units, strata, labels, strict=True):
        contents[unit][("stratum", *stratum)] += 1
        contents[unit][("all",)] += 1
        group_labels[unit].add(label)
    totals: Counter[Stratum] = sum(contents.values(), Counter())
    lacking = {part: {key: fraction * count for key, count in totals.items()} for part, fraction in fractions.items()}
    waiting = Counter(label for found in group_labels.values() for label in found)
    allotted: dict[str, Part] = {}
    trained: set[str] = set()
    for unit in sorted(order, key=lambda unit: -contents[unit][("all",)]):
        content, held = contents[unit], group_labels[unit]
        last_chance = any(waiting[label] == 1 and label not in trained for label in held)
        # Terms come in the order of the rows, and ties are common: only an exact sum is the same for any order.
        costs = {
            part: math.fsum(n * (n - 2 * short[key]) / totals[key] for key, n in content.items())
            for part, short in lacking.items()
        }
        part = "train" if last_chance else min(costs, key=lambda part: costs[part])
        allotted[unit] = part
        waiting.subtract(held)
        trained.update(held if part == "train" else ())
        for key, n in content.items():
            lacking[part][key] -= n
    return allotted
