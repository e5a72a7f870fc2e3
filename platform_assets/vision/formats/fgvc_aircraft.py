"""FGVC-Aircraft as it is published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from platform_assets.vision.datasets.label_map import normal_label
from platform_assets.vision.datasets.sources import Candidates, Source
from platform_assets.vision.datasets.splits import PARTS
from platform_assets.vision.formats.entries import Entry, by_id, image_candidates, require_same_ids
from platform_assets.vision.formats.id_lists import list_entries

Level = Literal["manufacturer", "family", "variant"]

LEVELS: tuple[Level, ...] = get_args(Level)
_NAMES: dict[Level, str] = {
    "manufacturer": "data/manufacturers.txt",
    "family": "data/families.txt",
    "variant": "data/variants.txt",
}
_BOXES = "data/images_box.txt"


class FgvcAircraftSource(Source):
    """FGVC-Aircraft 2013b (Maji et al., arXiv 1306.5151): the folder that holds `data/`.

    `level` says what the label is; `hierarchy` holds the levels above it, manufacturer first. The set has no class ids:
    the label order is that of the lines of variants.txt, families.txt or manufacturers.txt. Its train, val and test are
    Kestrel's. Boxes are written from pixel 1 with the last pixel in, and are converted to x, y, width, height from pixel 0.
    The lowest 20 pixels of each picture are a banner with its copyright, outside of every box.
    """

    kind: Literal["fgvc_aircraft"]
    level: Level = "variant"

    def own_files(self, root: Path) -> list[str]:
        labels = [_label_file(level, part) for level in self._levels() for part in PARTS]
        return [*(_NAMES[level] for level in self._levels()), *labels, _BOXES]

    def read(self, root: Path) -> Candidates:
        """One row a line of the lists of the level."""
        *above, images = (_labelled(root, level) for level in self._levels())
        boxes = by_id(list_entries(root, _BOXES, ("image id", "xmin", "ymin", "xmax", "ymax")), _image_id)
        require_same_ids(images, boxes, images_in=_label_file(self.level, "*"), listed_in=_BOXES)
        for level, entries in zip(self._levels(), above, strict=False):
            _require_same_parts(images, entries, self.level, level)
        rows = (
            (
                entry,
                {
                    "path": f"data/images/{key}.jpg",
                    "label": entry.text("label"),
                    "split": entry.text("part"),
                    "hierarchy": [entries[key].text("label") for entries in above],
                    "box": boxes[key].corner_box(first_pixel=1),
                },
            )
            for key, entry in images.items()
        )
        classes = tuple(_class_names(root, self.level))
        return image_candidates(root, rows, classes=classes, columns=("hierarchy", "box"))

    def _levels(self) -> tuple[Level, ...]:
        """From the highest down to the label's own."""
        return LEVELS[: LEVELS.index(self.level) + 1]


def _class_names(root: Path, level: Level) -> dict[str, Entry]:
    """Lines of the list of classes by name, in their order."""
    lines = list_entries(root, _NAMES[level], ("class name",), open_end=True)
    return by_id(lines, lambda entry: normal_label(entry.text("class name")))


def _labelled(root: Path, level: Level) -> dict[str, Entry]:
    """Image id, label and part of every image, by its id. Raises BadSource for a label that is not listed."""
    known = _class_names(root, level)
    entries = []
    for part in PARTS:
        for entry in list_entries(root, _label_file(level, part), ("image id", "label"), open_end=True):
            label = normal_label(entry.text("label"))
            if label not in known:
                raise entry.fault(f"{level} {label!r} is not in {_NAMES[level]}; add it there, or correct the label")
            entries.append(Entry(entry.where, {**entry.cells, "label": label, "part": part}))
    return by_id(entries, _image_id)


def _require_same_parts(images: Mapping[str, Entry], above: Mapping[str, Entry], level: Level, higher: Level) -> None:
    files = {"images_in": _label_file(level, "*"), "listed_in": _label_file(higher, "*")}
    require_same_ids(images, above, **files)
    for key, entry in above.items():
        part, other = entry.text("part"), images[key].text("part")
        if part != other:
            raise entry.fault(f"image id {key} is {part} here and {other} in {images[key].where}; restore the lists")


def _image_id(entry: Entry) -> str:
    return entry.text("image id")


def _label_file(level: Level, part: str) -> str:
    return f"data/images_{level}_{part}.txt"
