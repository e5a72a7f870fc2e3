"""iNaturalist 2017 as it is published."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from platform_assets.vision.datasets.label_map import normal_label
from platform_assets.vision.datasets.sources import BadSource, Candidates, Source
from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.formats.entries import ClassIds, Entry, by_id, image_candidates, require_same_ids
from platform_assets.vision.formats.set_files import read_text

_FILES: dict[Part, str] = {"train": "train2017.json", "test": "val2017.json"}
_LISTS = ("categories", "images", "annotations")


class InaturalistSource(Source):
    """iNaturalist 2017 (Van Horn et al., CVPR 2018): the folder that holds both lists and `train_val_images/`.

    The official val is Kestrel's test part: labels of the official test images do not come with the set, and published
    results are those on val, so nothing may be selected on it. Kestrel's val is drawn from train. Category ids count
    from 0; the label order is theirs, `coarse_label` is the supercategory.
    """

    kind: Literal["inaturalist"]

    def own_files(self, root: Path) -> list[str]:
        return list(_FILES.values())

    def read(self, root: Path) -> Candidates:
        """One row an image of the two lists."""
        known, coarse = ClassIds(), dict[int, str]()
        rows: list[tuple[Entry, dict[str, str]]] = []
        for part, file in _FILES.items():
            lists = _read_lists(root, file)
            for class_id, entry in by_id(lists["categories"], _id_in("id")).items():
                known.add(entry, class_id, entry.text("name"))
                _add_coarse(coarse, entry, class_id)
            for image, annotation in _pairs(lists, file):
                class_id = annotation.whole("category_id", first=0)
                label = known.name(annotation, class_id, classes_in=f"categories of {file}")
                row = {"path": image.text("file_name"), "label": label, "split": part, "coarse_label": coarse[class_id]}
                rows.append((image, row))
        classes = known.without_gaps(first=0, classes_in=f"categories of {' and '.join(_FILES.values())}")
        return image_candidates(root, rows, classes=classes, columns=("coarse_label",))


def _pairs(lists: dict[str, list[Entry]], file: str) -> Iterator[tuple[Entry, Entry]]:
    """Each image with its annotation. Raises BadSource unless each has exactly one."""
    images, annotations = by_id(lists["images"], _id_in("id")), by_id(lists["annotations"], _id_in("image_id"))
    require_same_ids(images, annotations, images_in=f"images of {file}", listed_in=f"annotations of {file}")
    return ((entry, annotations[key]) for key, entry in images.items())


def _read_lists(root: Path, file: str) -> dict[str, list[Entry]]:
    """The records of each list, numbered from 1. Raises BadSource."""
    text = read_text(root, file)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadSource(
            f"{file} line {error.lineno}: not JSON ({error.msg}); restore it as it was published"
        ) from error
    except ValueError as error:
        raise BadSource(f"{file}: not JSON (a number of over 4,300 digits); restore it as it was published") from error
    except RecursionError as error:
        raise BadSource(f"{file}: JSON nested too deep; restore it as it was published") from error
    lists: dict[str, list[Entry]] = {}
    for name in _LISTS:
        records = found.get(name) if isinstance(found, dict) else None
        if not isinstance(records, list):
            raise BadSource(f"{file}: has no list {name!r}; restore it as it was published")
        lists[name] = [_entry(f"{file} {name} record {number}", record) for number, record in enumerate(records, 1)]
    return lists


def _entry(where: str, record: object) -> Entry:
    if not isinstance(record, dict):
        raise BadSource(f"{where}: not an object; restore it as it was published")
    return Entry(where, record)


def _id_in(name: str) -> Callable[[Entry], int]:
    return lambda entry: entry.whole(name, first=0)


def _add_coarse(coarse: dict[int, str], entry: Entry, class_id: int) -> None:
    name = normal_label(entry.text("supercategory"))
    if coarse.setdefault(class_id, name) != name:
        raise entry.fault(f"supercategory is {name!r} here and {coarse[class_id]!r} in {_FILES['train']}; restore both")
