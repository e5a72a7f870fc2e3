"""One entry of a published list, whatever kind of file it stands in: its cells, its ids, and where to find it again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from platform_assets.vision.datasets.label_map import normal_label
from platform_assets.vision.datasets.sources import BadSource, Candidates, Rejected, candidates, refusal

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")

Key = TypeVar("Key", int, str)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line, a record or an object of a file. `where` names it in messages, `cells` are its values by name."""

    where: str
    cells: Mapping[str, object]

    def fault(self, said: str) -> BadSource:
        return BadSource(f"{self.where}: {said}")

    def text(self, name: str) -> str:
        """A text without outer blanks. Raises BadSource when it is empty or no text."""
        value = self.cells.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.fault(f"{name} is {_shown(value)}, not a text; restore it as it was published")
        return value.strip()

    def whole(self, name: str, *, first: int) -> int:
        """A whole number that is at least `first`: what the set counts from. Raises BadSource."""
        value = self.cells.get(name)
        if (isinstance(value, str) and _WHOLE.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(f"{name} is {_shown(value)}, not a whole number; restore it as it was published")
        if value < first:
            raise self.fault(f"{name} is {value}, but this set counts from {first}; restore it as it was published")
        return value

    def number(self, name: str) -> float:
        """A finite number. Raises BadSource."""
        value = self.cells.get(name)
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fault(f"{name} is {_shown(value)}, not a number; restore it as it was published")
        return float(value)

    def flag(self, name: str) -> bool:
        """1 or 0. Raises BadSource."""
        value = self.whole(name, first=0)
        if value > 1:
            raise self.fault(f"{name} is {value}, not 0 or 1; restore it as it was published")
        return value == 1

    def box(self) -> list[float]:
        """The cells x, y, width, height. Raises BadSource when a size is not positive."""
        x, y, width, height = (self.number(name) for name in ("x", "y", "width", "height"))
        return self._sized(x, y, width, height)

    def corner_box(self, *, first_pixel: int) -> list[float]:
        """x, y, width, height (0-based) of the cells xmin, ymin, xmax, ymax.

        Where the first pixel is 1, as in MATLAB and Pascal VOC, the last row and column belong to the box; where it is
        0 they do not. Raises BadSource when a size is not positive.
        """
        left, top, right, bottom = (self.number(name) for name in ("xmin", "ymin", "xmax", "ymax"))
        return self._sized(
            left - first_pixel, top - first_pixel, right - left + first_pixel, bottom - top + first_pixel
        )

    def _sized(self, x: float, y: float, width: float, height: float) -> list[float]:
        if width <= 0 or height <= 0:
            raise self.fault(f"the box is {width:g} x {height:g} pixels, both must be positive; correct the box")
        return [x, y, width, height]


def by_id(entries: Iterable[Entry], id_of: Callable[[Entry], Key]) -> dict[Key, Entry]:
    """Entries by their id. Raises BadSource when an id stands twice."""
    found: dict[Key, Entry] = {}
    for entry in entries:
        key = id_of(entry)
        if (first := found.setdefault(key, entry)) is not entry:
            raise entry.fault(f"id {key} stands in {first.where} already; keep one of the two")
    return found


def require_same_ids(
    images: Mapping[Key, Entry], listed: Mapping[Key, Entry], *, images_in: str, listed_in: str
) -> None:
    """Raises BadSource unless both lists hold the same images."""
    for key, entry in listed.items():
        if key not in images:
            raise entry.fault(f"image id {key} is not in {images_in}; add the image there, or remove this entry")
    for key, entry in images.items():
        if key not in listed:
            raise entry.fault(f"image id {key} has no entry in {listed_in}; add one, or remove the image everywhere")


class ClassIds:
    """The classes of a set while it is read: an id has one name, and a name one id."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._owners: dict[str, tuple[int, str]] = {}

    def add(self, entry: Entry, class_id: int, name: str) -> str:
        """Learns what a class is called, and returns it as Kestrel writes it. Raises BadSource for a contradiction."""
        name = normal_label(name)
        known = self._names.setdefault(class_id, name)
        if known != name:
            raise entry.fault(
                f"class id {class_id} is {name!r} here and {known!r} in {self._owners[known][1]}; give it one name"
            )
        owner, where = self._owners.setdefault(name, (class_id, entry.where))
        if owner != class_id:
            raise entry.fault(f"class {name!r} has id {class_id} here and id {owner} in {where}; give it one id")
        return name

    def name(self, entry: Entry, class_id: int, *, classes_in: str) -> str:
        """The class of an id that an image bears. Raises BadSource when the set has no such class."""
        if class_id not in self._names:
            raise entry.fault(f"class id {class_id} is not in {classes_in}; add the class there, or correct the id")
        return self._names[class_id]

    def in_order(self) -> tuple[str, ...]:
        """The names in order of their ids, which may have gaps."""
        return tuple(self._names[class_id] for class_id in sorted(self._names))

    def without_gaps(self, *, first: int, classes_in: str) -> tuple[str, ...]:
        """The names in order of their ids. Raises BadSource unless these run from `first` on without a gap."""
        last = first + len(self._names) - 1
        if missing := sorted(set(range(first, last + 1)).difference(self._names)):
            raise BadSource(
                f"{classes_in}: {len(self._names)} classes have the ids {first} to {last}, but id {missing[0]} is missing; "
                "restore it as it was published"
            )
        return self.in_order()


def image_candidates(
    root: Path,
    images: Iterable[tuple[Entry, Mapping[str, object]]],
    *,
    classes: tuple[str, ...],
    columns: Sequence[str],
) -> Candidates:
    """The candidates of a set that lists its images: an entry and a row each, `path` among it.

    An image that is not on disk, or not below the root, is rejected, with the place that lists it.
    """
    real_root = root.resolve()
    rows: list[dict[str, object]] = []
    rejected: list[Rejected] = []
    for entry, row in images:
        path = PurePosixPath(str(row["path"])).as_posix()
        if why := refusal(real_root, path):
            rejected.append((path, why[0], f"{entry.where}: {why[1]}"))
        else:
            rows.append({**row, "path": path})
    return candidates(rows, rejected, classes=classes, columns=columns)


def _shown(value: object) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
