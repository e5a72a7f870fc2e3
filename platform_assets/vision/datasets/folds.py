"""Cross-validation: the images outside test dealt into folds, each of them val once."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from platform_assets.vision.datasets.splits import BadSplit, EmptySplit, seeded_order, units_of

if TYPE_CHECKING:
    import polars as pl

Key = str | tuple[str]
_ALL: Key = ("all",)


def folds(records: pl.DataFrame, k: int, seed: int, *, group_by: Sequence[str] = ()) -> list[pl.DataFrame]:
    """`k` times the records, in their order, the split of all but test images drawn anew: val in one fold, train in the others.

    Folds are stratified by label and alike in size; images of the same bytes, or the same value of one of `group_by`,
    are in one of them. A class of two groups or more (images, where nothing groups them) is in train of every fold.
    Depends on the rows, never on their order. Raises BadSplit, and EmptySplit where groups of several classes leave
    no such folds.
    """
    import polars as pl

    if k < 2:
        raise BadSplit(f"{k} folds: an image must be in train of another fold; ask for 2 or more")
    if missing := [name for name in group_by if name not in records.columns]:
        raise BadSplit(f"folds are grouped by {missing}, the records have {records.columns}; correct the columns")
    units = units_of(records, group_by)
    is_test = (records["split"] == "test").fill_null(False).to_list()
    fold_of = _dealt(_labels_by_unit(records, units, is_test), k, seed)
    numbers = [None if test else fold_of[unit] for unit, test in zip(units, is_test, strict=True)]
    return [records.with_columns(pl.Series("split", _parts(numbers, fold), dtype=pl.String)) for fold in range(k)]


def fold_of_seed(records: pl.DataFrame, k: int, seed: int, *, group_by: Sequence[str] = ()) -> pl.DataFrame:
    """The fold of a trial: seeds 0 to k - 1 are the folds of one dealing, the next k those of another, and so on."""
    return folds(records, k, seed // k, group_by=group_by)[seed % k]


def _parts(numbers: Sequence[int | None], fold: int) -> list[str]:
    return ["test" if number is None else "val" if number == fold else "train" for number in numbers]


def _labels_by_unit(records: pl.DataFrame, units: Sequence[str], is_test: Sequence[bool]) -> dict[str, Counter[str]]:
    """How many images of each class a unit has outside test. Raises BadSplit for a unit on both sides."""
    contents: dict[str, Counter[str]] = defaultdict(Counter)
    tested = {unit for unit, test in zip(units, is_test, strict=True) if test}
    for unit, test, label, path in zip(units, is_test, records["label"], records["path"], strict=True):
        if not test and unit in tested:
            raise BadSplit(
                f"{path} stands outside test, and an image of its group or bytes in it; part them by group first"
            )
        if not test:
            contents[unit][label] += 1
    return contents


def _dealt(contents: Mapping[str, Counter[str]], k: int, seed: int) -> dict[str, int]:
    """Unit to fold: the largest first, each to the fold that has least of its classes and least in all.

    The last unit of a class does not go where all the others of the class are.
    """
    if len(contents) < k:
        raise EmptySplit(f"{len(contents)} images or groups outside test are too few for {k} folds; lower the folds")
    # Class by class, so that sizes differ by one image at most where nothing groups them.
    in_turn = sorted(seeded_order(contents, seed), key=lambda unit: (-contents[unit].total(), sorted(contents[unit])))
    totals = _with_all(sum(contents.values(), Counter[str]()))
    waiting = Counter(label for content in contents.values() for label in content)
    held: list[Counter[Key]] = [Counter() for _ in range(k)]
    fold_of: dict[str, int] = {}
    for unit in in_turn:
        content = _with_all(contents[unit])
        last = {label for label in contents[unit] if waiting[label] == 1}
        allowed = [fold for fold in range(k) if not any(_holds_all_others(held, fold, label) for label in last)]
        if not allowed:
            raise EmptySplit(f"no fold can take the last group of the classes {sorted(last)}; ask for more folds")
        fold_of[unit] = min(allowed, key=lambda fold: _cost(content, held[fold], totals))
        held[fold_of[unit]].update(content)
        waiting.subtract(contents[unit].keys())
    if empty := [fold for fold in range(k) if not held[fold]]:
        raise EmptySplit(f"folds {empty} of {k} have no images; lower the folds")
    return fold_of


def _with_all(content: Counter[str]) -> Counter[Key]:
    """Images by class, and all of them under a key that no class has."""
    found: Counter[Key] = Counter({_ALL: content.total()})
    found.update(content)
    return found


def _holds_all_others(held: Sequence[Counter[Key]], fold: int, label: str) -> bool:
    return held[fold][label] > 0 and sum(content[label] for content in held) == held[fold][label]


def _cost(content: Counter[Key], held: Counter[Key], totals: Counter[Key]) -> float:
    """The growth of the squared sizes relative to the totals, as in splits: quotas are the same for all folds.

    The sum is exact, and so the same in any order of the rows.
    """
    return math.fsum(n * (n + 2 * held[key]) / totals[key] for key, n in content.items())
