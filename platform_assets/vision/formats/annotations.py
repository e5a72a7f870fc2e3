"""The annotations that a format gives to its images, and the rows that follow: one label and one box an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from platform_assets.vision.datasets.sources import Candidates, Rejected, candidates, refusal
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.formats.boxes import Box, box_problem, from_fractions
from platform_assets.vision.formats.headers import Header, UnreadableHeader, read_header

if TYPE_CHECKING:
    from platform_assets.vision.images.decoding import RejectReason

Several = Literal["reject", "largest"]
"""What becomes of an image with several annotations: it is rejected, or takes that with the largest box."""


class Refused(Exception):
    """Ends the reading of one image: reason and detail."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: RejectReason = reason
        self.detail = detail


@dataclass(frozen=True)
class Annotation:
    """A class name, the box in pixels of the stored file and the coarse class, when the format gives them."""

    label: str
    box: Box | None = None
    coarse_label: str | None = None


@dataclass
class Listing:
    """Rows and rejected images of a source, as they are found. `real_root` is the root with its links resolved."""

    real_root: Path
    several: Several = "reject"
    rows: list[dict[str, object]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, path: str, annotations: Sequence[Annotation], place: str, split: Part | None) -> None:
        """Lists an image with the one annotation that it takes; `place` says where the source speaks of it."""
        path = PurePosixPath(path).as_posix()
        try:
            if why := refusal(self.real_root, path):
                raise Refused(*why)
            taken = one_of(annotations, self.several)
        except Refused as refused:
            self.reject(path, refused, place)
            return
        self.rows.append({"path": path, "split": split, **asdict(taken)})

    def reject(self, path: str, refused: Refused, place: str) -> None:
        self.rejected.append((path, refused.reason, f"{place}: {refused.detail}"))

    def header(self, path: str) -> Header:
        """Size and orientation of an image file. Raises Refused."""
        if why := refusal(self.real_root, path):
            raise Refused(*why)
        try:
            return read_header(self.real_root / path)
        except UnreadableHeader as error:
            raise Refused("corrupt", f"its size cannot be read: {error}") from error

    def candidates(self, classes: tuple[str, ...] | None) -> Candidates:
        return candidates(self.rows, self.rejected, classes=classes, columns=("box", "coarse_label"))


def one_of(annotations: Sequence[Annotation], several: Several) -> Annotation:
    """The annotation that an image takes. Of equally large boxes that which sorts last, whatever their order in the file.

    Raises Refused.
    """
    if not annotations:
        raise Refused("missing_label", "it has no annotation")
    if len(annotations) == 1:
        return annotations[0]
    labels = sorted(annotation.label for annotation in annotations)
    said = f"{len(annotations)} annotations: {labels}"
    if several == "reject":
        raise Refused("conflicting_labels", f"{said}; an image has one label here, or set several: largest")
    if any(annotation.box is None for annotation in annotations):
        raise Refused("conflicting_labels", f"{said}; not all have a box, so none is the largest")
    return max(annotations, key=_by_area)


def checked_box(values: Sequence[float]) -> Box:
    """Raises Refused."""
    if problem := box_problem(values):
        raise Refused("malformed_row", problem)
    x, y, width, height = values
    return x, y, width, height


def box_from_fractions(values: Sequence[float], header: Header) -> Box:
    """Pixels of the stored file from x, y, width, height as fractions of the upright picture. Raises Refused."""
    return from_fractions(checked_box(values), header)


def _by_area(annotation: Annotation) -> tuple[Any, ...]:
    assert annotation.box is not None
    return annotation.box[2] * annotation.box[3], annotation.box, annotation.label
