"""Oxford-IIIT Pet as it is published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from platform_assets.vision.datasets.sources import Candidates, Source, refusal
from platform_assets.vision.formats.entries import ClassIds, Entry, by_id, image_candidates, require_same_ids
from platform_assets.vision.formats.id_lists import list_entries
from platform_assets.vision.formats.set_files import has_file
from platform_assets.vision.formats.voc_boxes import largest_box

_WHOLE, _TRAIN, _TEST = "annotations/list.txt", "annotations/trainval.txt", "annotations/test.txt"
_SPECIES = {1: "cat", 2: "dog"}
_NAME = re.compile(r"(.+)_[0-9]+")


class OxfordPetSource(Source):
    """Oxford-IIIT Pet (Parkhi et al., CVPR 2012): the folder that holds `annotations/` and `images/`.

    Class ids count from 1; the label order is theirs, a label is the breed as the image names have it
    (`Abyssinian`, `american_bulldog`), `coarse_label` is cat or dog. trainval is Kestrel's train part (val is drawn from
    it), test its test part. `mask` is the trimap (1 pet, 2 background, 3 border). `box` is the head, where the set has one:
    Pascal VOC corners, from pixel 1 with the last pixel in, converted to x, y, width, height from pixel 0.
    """

    kind: Literal["oxford_pet"]

    def own_files(self, root: Path) -> list[str]:
        names = [entry.text("image") for entry in _entries(root, _WHOLE).values()]
        annotations = (file for name in names for file in (_trimap(name), _head(name)))
        return [_WHOLE, _TRAIN, _TEST, *(file for file in annotations if has_file(root, file))]

    def read(self, root: Path) -> Candidates:
        """One row a line of list.txt."""
        images = _entries(root, _WHOLE)
        splits = _splits(root, images)
        known, rows = ClassIds(), []
        for name, entry in images.items():
            label = known.add(entry, entry.whole("class id", first=1), _breed(entry, name))
            row = {
                "path": f"images/{name}.jpg",
                "label": label,
                "split": splits[name],
                "coarse_label": _species(entry),
                "box": _head_box(root, _head(name)),
                "mask": _mask(root, entry, name),
            }
            rows.append((entry, row))
        classes = known.without_gaps(first=1, classes_in=_WHOLE)
        return image_candidates(root, rows, classes=classes, columns=("coarse_label", "box", "mask"))


def _entries(root: Path, file: str) -> dict[str, Entry]:
    lines = list_entries(root, file, ("image", "class id", "species", "breed id"), comment="#")
    return by_id(lines, lambda entry: entry.text("image"))


def _splits(root: Path, images: Mapping[str, Entry]) -> dict[str, str]:
    """The part of each image. Raises BadSource when trainval.txt and test.txt do not say what list.txt says."""
    parts = {"train": _entries(root, _TRAIN), "test": _entries(root, _TEST)}
    both = by_id((entry for entries in parts.values() for entry in entries.values()), lambda entry: entry.text("image"))
    require_same_ids(images, both, images_in=_WHOLE, listed_in=f"{_TRAIN} or {_TEST}")
    for name, entry in both.items():
        if entry.cells != images[name].cells:
            raise entry.fault(f"does not say what {images[name].where} says of {name}; restore both as published")
    return {name: part for part, entries in parts.items() for name in entries}


def _breed(entry: Entry, name: str) -> str:
    found = _NAME.fullmatch(name)
    if found is None:
        raise entry.fault(f"image {name!r} is not named breed_number; restore it as it was published")
    return found[1]


def _species(entry: Entry) -> str:
    species = entry.whole("species", first=1)
    if species not in _SPECIES:
        raise entry.fault(f"species is {species}, not 1 (cat) or 2 (dog); restore it as it was published")
    return _SPECIES[species]


def _head_box(root: Path, file: str) -> list[float] | None:
    why = refusal(root.resolve(), file)
    return None if why and why[0] == "missing_file" else largest_box(root, file, first_pixel=1)


def _mask(root: Path, entry: Entry, name: str) -> str:
    if why := refusal(root.resolve(), _trimap(name)):
        raise entry.fault(f"trimap {_trimap(name)}: {why[1]}; unpack the annotations again")
    return _trimap(name)


def _trimap(name: str) -> str:
    return f"annotations/trimaps/{name}.png"


def _head(name: str) -> str:
    return f"annotations/xmls/{name}.xml"
