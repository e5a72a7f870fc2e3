"""The label map: which class name stands at which index of the logits, under a checksum that every artifact carries."""

from __future__ import annotations

import difflib
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator


class UnknownLabel(ValueError):
    """A label that the label map does not hold."""


class LabelMapMismatch(ValueError):
    """Two artifacts that were made with different label maps."""


class BadLabelMap(ValueError):
    """A stored label map that does not say what it said when it was written."""


def normal_label(text: str) -> str:
    """A class name as all of Kestrel writes it: no outer blanks, Unicode NFC (a Mac's folders come as NFD)."""
    return unicodedata.normalize("NFC", text.strip())


class LabelMap(BaseModel):
    """Class names in the order of the logits.

    The order is the dataset's own class list where it has one, else the code-point order of the names. No natural or
    locale sorting: `1, 10, 2`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]

    @field_validator("names")
    @classmethod
    def _unique_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names:
            raise ValueError("a label map needs at least one class name")
        for name in names:
            if not name or name != normal_label(name):
                raise ValueError(
                    f"class name {name!r} is empty, has outer blanks or is not NFC; use {normal_label(name)!r}"
                )
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise ValueError(f"class names {repeated} stand more than once; every class has one index")
        return names

    @classmethod
    def from_labels(cls, labels: Iterable[str], classes: Sequence[str] | None = None) -> LabelMap:
        """The label map of a dataset: `classes` in its own order when given, else the labels in code-point order.

        Raises UnknownLabel for labels outside of `classes`.
        """
        present = {normal_label(label) for label in labels}
        if classes is None:
            return cls(names=tuple(sorted(present)))
        names = tuple(normal_label(name) for name in classes)
        if strangers := sorted(present.difference(names)):
            raise UnknownLabel(
                f"labels {strangers} are not in the dataset's class list; add them there or fix the labels"
            )
        return cls(names=names)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    @cached_property
    def checksum(self) -> str:
        """SHA-256 (hex) of the canonical JSON of the names, order included."""
        canonical = json.dumps(self.names, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def index(self, name: str) -> int:
        """The logit index of a class. Raises UnknownLabel, with the nearest names."""
        try:
            return self._indices[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.names) or list(self.names[:5])
            raise UnknownLabel(f"label {name!r} is not one of the {len(self)} classes; nearest: {near}") from None

    def require_same(self, other: LabelMap, *, what: str) -> None:
        """Raises LabelMapMismatch, naming the difference, unless `other` is this very map. `what` names its bearer."""
        if self.checksum != other.checksum:
            raise LabelMapMismatch(
                f"{what}: label map {other.checksum[:12]} ({len(other)} classes) is not the expected "
                f"{self.checksum[:12]} ({len(self)} classes): {_difference(self, other)}; "
                "use the artifact made from this dataset version, or make it again"
            )

    def to_json(self) -> str:
        stored = {"checksum": self.checksum, "names": self.names}
        return json.dumps(stored, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> LabelMap:
        """Reads what `to_json` wrote. Raises BadLabelMap when it was changed since."""
        try:
            stored = _StoredLabelMap.model_validate_json(text)
            label_map = cls(names=stored.names)
        except ValidationError as error:
            raise BadLabelMap(f"not a label map: {error}; restore the file") from error
        if stored.checksum != label_map.checksum:
            raise BadLabelMap(
                f"label map says checksum {stored.checksum!r}, its names give {label_map.checksum!r}: "
                "it was edited after it was written; restore the file"
            )
        return label_map


class _StoredLabelMap(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    checksum: str
    names: tuple[str, ...]


def _difference(expected: LabelMap, found: LabelMap, most: int = 8) -> str:
    missing = [name for name in expected.names if name not in found._indices]
    added = [name for name in found.names if name not in expected._indices]
    moved = [
        f"{name!r} at {found._indices[name]} instead of {index}"
        for index, name in enumerate(expected.names)
        if found._indices.get(name, index) != index
    ]
    said = [("missing", [repr(n) for n in missing]), ("not expected", [repr(n) for n in added]), ("moved", moved)]
    return "; ".join(f"{word}: {_shortened(items, most)}" for word, items in said if items)


def _shortened(items: list[str], most: int) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
