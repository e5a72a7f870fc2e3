"""Folders of any layout: patterns say which files are images, and of which class and part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from platform_assets.vision.datasets.label_map import normal_label
from platform_assets.vision.datasets.sources import (
    Candidates,
    ClassList,
    Rejected,
    Source,
    Spec,
    candidates,
    part_named,
    require_inside,
)
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.formats.annotations import Refused
from platform_assets.vision.formats.folder import walk

_GROUPS = frozenset({"label", "split", "group"})


class GlobEntry(Spec):
    """Files of one pattern. Their label is `label`, or the group `label` of `regex`, which must fit the whole path.

    In the pattern `*` and `?` stay within a folder, `**` is any number of folders. The expression may also have groups
    `split` and `group`.
    """

    glob: Annotated[str, StringConstraints(min_length=1)]
    label: Annotated[str, StringConstraints(min_length=1)] | None = None
    regex: str | None = None
    split: Part | None = None

    @field_validator("glob")
    @classmethod
    def _pattern(cls, pattern: str) -> str:
        parts = PurePosixPath(require_inside(pattern)).parts
        if not parts or any("**" in part and part != "**" for part in parts):
            raise ValueError(
                f"{pattern!r}: `**` stands for whole folders, alone between slashes, and a name must follow"
            )
        return pattern

    @field_validator("label")
    @classmethod
    def _name(cls, label: str | None) -> str | None:
        if label is not None and not normal_label(label):
            raise ValueError("label is blank; name the class")
        return None if label is None else normal_label(label)

    @field_validator("regex")
    @classmethod
    def _expression(cls, regex: str | None) -> str | None:
        try:
            groups = set(re.compile(regex).groupindex) if regex is not None else {"label"}
        except re.error as error:
            raise ValueError(f"{regex!r} is no regular expression: {error}") from None
        if "label" not in groups or groups - _GROUPS:
            raise ValueError(f"{regex!r} has the groups {sorted(groups)}; `label` must be one, `split` and `group` may")
        return regex

    @model_validator(mode="after")
    def _one_label(self) -> GlobEntry:
        if (self.label is None) == (self.regex is None):
            raise ValueError("give exactly one of `label` and `regex`")
        if self.split is not None and self.regex is not None and "split" in re.compile(self.regex).groupindex:
            raise ValueError("`split` and a group `split` both say the part; give one of them")
        return self


class GlobsSource(ClassList, Source):
    """A list of patterns. The first that fits a file says its label and part; files that none fits do not count.

    A file that fits two entries with different labels is rejected. Hidden files are skipped.
    """

    kind: Literal["globs"]
    entries: tuple[GlobEntry, ...] = Field(min_length=1)

    def read(self, root: Path) -> Candidates:
        files, refused = walk(root)
        matching = [{path.relative_to(root).as_posix() for path in root.glob(entry.glob)} for entry in self.entries]
        compiled = [None if entry.regex is None else re.compile(entry.regex) for entry in self.entries]
        wanted: set[str] = set().union(*matching)
        rows: list[dict[str, object]] = []
        above = {folder.as_posix() for path in wanted for folder in PurePosixPath(path).parents}
        rejected: list[Rejected] = [row for row in refused if row[0] in wanted | above]
        for path in files:
            at = [index for index, paths in enumerate(matching) if path in paths]
            if not at:
                continue
            found = [_match(path, self.entries[index], compiled[index]) for index in at]
            try:
                rows.append({"path": path} | self._columns([match for match in found if match is not None]))
            except Refused as refused:
                rejected.append((path, refused.reason, refused.detail))
        return candidates(rows, rejected, classes=self.classes)

    def _columns(self, found: Sequence[_Match]) -> dict[str, object]:
        """Label, part and group of a file that entries fit. Raises Refused."""
        labels = sorted({match.label for match in found})
        if not labels or not labels[0]:
            raise Refused("missing_label", "its path does not fit the regex of its entry, or gives an empty label")
        if len(labels) > 1:
            raise Refused("conflicting_labels", f"entries give it the labels {labels}; narrow their globs")
        if self.classes is not None and labels[0] not in self.classes:
            raise Refused("unknown_label", f"label {labels[0]!r} is not in classes")
        first = found[0]
        part = part_named(first.split) if first.split else None
        if first.split and part is None:
            raise Refused("malformed_row", f"{first.split!r} is no part; write train, val or test")
        return {"label": first.label, "split": part, "group": first.group}


@dataclass(frozen=True)
class _Match:
    label: str
    split: str | None
    group: str | None


def _match(path: str, entry: GlobEntry, regex: re.Pattern[str] | None) -> _Match | None:
    """What an entry says of a path that its glob fits."""
    if regex is None:
        return _Match(entry.label or "", entry.split, None)
    if (fits := regex.fullmatch(path)) is None:
        return None
    groups = fits.groupdict()
    return _Match(normal_label(groups["label"] or ""), groups.get("split") or entry.split, groups.get("group") or None)
