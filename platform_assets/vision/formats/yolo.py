"""YOLO detection folders: data.yaml, images, and one text file of class numbers and boxes beside each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.sources import BadSource, Candidates, FileName, Source, refusal, require_inside
from platform_assets.vision.datasets.splits import PARTS, Part
from platform_assets.vision.formats.annotations import Annotation, Listing, Refused, Several, box_from_fractions
from platform_assets.vision.formats.boxes import to_fractions
from platform_assets.vision.formats.copies import (
    CannotWrite,
    CopiedImage,
    copied_images,
    copy_image,
    new_folder,
    present_parts,
    stored_header,
)
from platform_assets.vision.formats.documents import ClassName, Document, read_bytes, read_yaml
from platform_assets.vision.formats.folder import IMAGE_SUFFIXES, walk
from platform_assets.vision.formats.headers import Header

if TYPE_CHECKING:
    import polars as pl

_WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)
_ROUNDING = 1e-6  # records hold boxes as 32-bit numbers


class YoloSource(Source):
    """A YOLO detection set: `file` names the classes and, by part, a folder of images, a list file, or several of them.

    The labels of `images/a.jpg` stand in `labels/a.txt`, a line an object: class, then centre, width and height of the
    box, or the corners of a polygon, whose surrounding box is taken; all as fractions of the upright picture. Places
    in the file start at its `path`, and that at the file's own folder; one `../` before a place does not count, for
    Roboflow writes it and means the same folder (Ultralytics' `check_det_dataset` leaves it out too).
    Format: Ultralytics, "Object detection datasets overview".
    """

    kind: Literal["yolo"]
    file: FileName = Field("data.yaml", description="the yaml file that names classes and parts")
    several: Several = "reject"

    @field_validator("file")
    @classmethod
    def _inside(cls, file: str) -> str:
        return require_inside(file)

    def own_files(self, root: Path) -> list[str]:
        """data.yaml, the list files and the label files that are there."""
        document = read_yaml(_DataYaml, root, self.file)
        real_root = root.resolve()
        lists = [place for _, place in _places(document, self.file) if not (root / place).is_dir()]
        labels = {_label_file(image) for _, image in _images(document, self.file, root)}
        return [self.file, *lists, *sorted(label for label in labels if not refusal(real_root, label))]

    def read(self, root: Path) -> Candidates:
        """One row an image. Raises BadSource for a data.yaml that is not as published."""
        document = read_yaml(_DataYaml, root, self.file)
        names = _class_names(document, self.file)
        listing = Listing(root.resolve(), self.several)
        for part, image in _images(document, self.file, root):
            place = _label_file(image)
            try:
                annotations = _annotations(image, place, names, listing)
            except Refused as refused:
                listing.reject(image, refused, place)
            else:
                listing.add(image, annotations, place, part)
        return listing.candidates(tuple(names.values()))


class _DataYaml(Document):
    path: str = ""
    names: list[ClassName] | dict[int, ClassName] = Field(min_length=1)
    train: str | list[str] = Field(default_factory=list)
    val: str | list[str] = Field(default_factory=list)
    test: str | list[str] = Field(default_factory=list)


def _class_names(document: _DataYaml, file: str) -> dict[int, str]:
    """Class number to name, in order of the numbers."""
    numbered = document.names.items() if isinstance(document.names, dict) else enumerate(document.names)
    names = dict(sorted(numbered))
    if repeated := sorted(name for name, count in Counter(names.values()).items() if count > 1):
        raise BadSource(f"{file}: names: {repeated} stand more than once; give every class its own name")
    return names


def _places(document: _DataYaml, file: str) -> list[tuple[Part, str]]:
    """The folders and list files of each part, from the root of the source. Raises BadSource."""
    base = PurePosixPath(file).parent
    found: list[tuple[Part, str]] = []
    for part in PARTS:
        named = getattr(document, part)
        for place in [named] if isinstance(named, str) else named:
            try:
                path = base / require_inside(document.path) / require_inside(place.removeprefix("../"))
            except ValueError as error:
                raise BadSource(
                    f"{file}: {part}: {error}; paths start at `path`, `path` at the file's folder"
                ) from None
            found.append((part, path.as_posix()))
    if not found:
        raise BadSource(f"{file}: none of train, val and test is given; name the folder of images of each")
    return found


def _images(document: _DataYaml, file: str, root: Path) -> Iterator[tuple[Part, str]]:
    """The images of each part. Links that lead out are kept, for the reader to reject. Raises BadSource."""
    for part, place in _places(document, file):
        if (root / place).is_dir():
            if not (root / place).resolve().is_relative_to(root.resolve()):
                raise BadSource(f"{file}: {part}: {place} links out of the source; copy the folder into it")
            files, rejected = walk(root / place)
            images = [name for name in files if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
            for name in [*images, *(path for path, _, _ in rejected)]:
                yield part, (PurePosixPath(place) / name).as_posix()
        elif place.endswith(".txt"):
            yield from ((part, image) for image in _listed(root, place))
        else:
            raise BadSource(f"{file}: {part}: no folder {place} below {root}; correct the path")


def _listed(root: Path, place: str) -> list[str]:
    """The images that a list file names, a line each; `./` is the folder of the list."""
    base = PurePosixPath(place).parent
    lines = (line.strip() for line in _text(root, place).splitlines())
    return [(base / line).as_posix() for line in lines if line]


def _label_file(image: str) -> str:
    """The last folder `images` of the path becomes `labels`."""
    folders = list(PurePosixPath(image).with_suffix(".txt").parts)
    for at in range(len(folders) - 2, -1, -1):
        if folders[at] == "images":
            folders[at] = "labels"
            break
    return PurePosixPath(*folders).as_posix()


def _annotations(image: str, place: str, names: dict[int, str], listing: Listing) -> list[Annotation]:
    """Raises Refused when the file is missing, or a line is not as published."""
    if refusal(listing.real_root, image):
        return []  # the listing says what is wrong with the image
    if refusal(listing.real_root, place):
        raise Refused("missing_label", f"no such file below {listing.real_root}")
    text = _text(listing.real_root, place)
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    header = listing.header(image) if lines else None
    return [_annotation(cells, number, names, header) for number, cells in lines if header is not None]


def _annotation(cells: Sequence[str], line: int, names: dict[int, str], header: Header) -> Annotation:
    try:
        number, values = int(cells[0]), [float(cell) for cell in cells[1:]]
    except ValueError:
        raise Refused(
            "malformed_row", f"line {line}: {' '.join(cells)[:80]!r} is not a class number and numbers"
        ) from None
    if number not in names:
        raise Refused("unknown_label", f"line {line}: class {number} is none of names")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise Refused(
            "malformed_row", f"line {line}: {len(values)} numbers are neither a box (4) nor a polygon (6, 8, ...)"
        )
    if not all(0 <= value <= 1 for value in values):
        raise Refused("malformed_row", f"line {line}: {values} are not all fractions of the picture, 0 to 1")
    try:
        return Annotation(names[number], box_from_fractions(_corner_box(values), header))
    except Refused as refused:
        raise Refused(refused.reason, f"line {line}: {refused.detail}") from None


def _corner_box(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Left, top, width and height of a box with a centre, or around a polygon."""
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, width, height
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _text(root: Path, file: str) -> str:
    try:
        return read_bytes(root, file).decode()
    except UnicodeDecodeError as error:
        raise BadSource(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def write_yolo(records: pl.DataFrame, label_map: LabelMap, root: Path, folder: Path) -> None:
    """`data.yaml`, `images/<part>/` and `labels/<part>/`; classes are numbered as in the label map.

    An image without a box gets one around the whole picture. Raises CannotWrite before anything is written.
    """
    import yaml

    images = copied_images(records, label_map, "YOLO")
    if any(image.split is None for image in images):
        raise CannotWrite("YOLO: its images stand in train, val and test, these have no part; assign splits first")
    lines = {
        (image.split, image.name): f"{label_map.index(image.label)} {_centre_box(image, root)}\n" for image in images
    }
    with new_folder(folder) as fresh:
        for image in images:
            copy_image(image, root, fresh / "images" / image.part_folder / image.name)
            labels = (fresh / "labels" / image.part_folder / image.name).with_suffix(".txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(lines[image.split, image.name], encoding="utf-8")
        content: dict[str, object] = {"path": "."}
        content |= {part: f"images/{part}" for part in present_parts(images)}
        content["names"] = dict(enumerate(label_map.names))
        # PyYAML writes U+0085, a line break of YAML 1.1, as it is, and then reads a space: it is escaped, and all else with it.
        readable = not any("\x85" in name for name in label_map.names)
        text = yaml.safe_dump(content, allow_unicode=readable, sort_keys=False)
        (fresh / "data.yaml").write_text(text, encoding="utf-8")


def _centre_box(image: CopiedImage, root: Path) -> str:
    box = _WHOLE_PICTURE if image.box is None else to_fractions(image.box, stored_header(image, root))
    left, top, width, height = box
    values = (left + width / 2, top + height / 2, width, height)
    if not all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values):
        raise CannotWrite(f"YOLO: {image.path}: box {list(image.box or ())} leaves the picture; correct the box")
    return " ".join(f"{min(max(value, 0.0), 1.0):.9g}" for value in values)
