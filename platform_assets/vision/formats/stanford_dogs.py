"""Stanford Dogs as it is published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from platform_assets.vision.datasets.sources import BadSource, Candidates, Source
from platform_assets.vision.formats.entries import ClassIds, Entry, by_id, image_candidates
from platform_assets.vision.formats.mat_files import plain, read_mat
from platform_assets.vision.formats.set_files import has_file
from platform_assets.vision.formats.voc_boxes import largest_box

_LISTS = ("train_list.mat", "test_list.mat")
_COLUMNS = ("file_list", "annotation_list", "labels")


class StanfordDogsSource(Source):
    """Stanford Dogs (Khosla et al., FGVC at CVPR 2011): the folder with both lists, `Images/` and `Annotation/`.

    Class ids count from 1 in `labels`; the label order is theirs, a label is the folder of its images
    (`n02085620-Chihuahua`). Test images are Kestrel's test part, val is drawn from train. Boxes are ImageNet's: corners
    from pixel 0, the last row and column not in the box. Of several dogs the largest gives the box.
    """

    kind: Literal["stanford_dogs"]

    def own_files(self, root: Path) -> list[str]:
        annotations = (_annotation(entry) for file in _LISTS for entry in _entries(root, file))
        return [*_LISTS, *(file for file in annotations if has_file(root, file))]

    def read(self, root: Path) -> Candidates:
        """One row an entry of the lists."""
        listed = [
            (part, entry)
            for part, file in zip(("train", "test"), _LISTS, strict=True)
            for entry in _entries(root, file)
        ]
        by_id((entry for _, entry in listed), lambda entry: entry.text("file_list"))
        known, rows = ClassIds(), []
        for part, entry in listed:
            file = entry.text("file_list")
            label = known.add(entry, entry.whole("labels", first=1), _folder(entry, file))
            box = largest_box(root, _annotation(entry), first_pixel=0)
            rows.append((entry, {"path": f"Images/{file}", "label": label, "split": part, "box": box}))
        classes = known.without_gaps(first=1, classes_in=f"labels of {' and '.join(_LISTS)}")
        return image_candidates(root, rows, classes=classes, columns=("box",))


def _entries(root: Path, file: str) -> Iterator[Entry]:
    found = read_mat(root, file, _COLUMNS)
    if len({len(values) for values in found.values()}) > 1:
        lengths = ", ".join(f"{len(values)} in {name}" for name, values in found.items())
        raise BadSource(f"{file}: its lists have different lengths ({lengths}); restore it as it was published")
    for number, values in enumerate(zip(*found.values(), strict=True), 1):
        yield Entry(f"{file} record {number}", dict(zip(found, map(plain, values), strict=True)))


def _annotation(entry: Entry) -> str:
    return f"Annotation/{entry.text('annotation_list')}"


def _folder(entry: Entry, file: str) -> str:
    folders = PurePosixPath(file).parts[:-1]
    if not folders:
        raise entry.fault(f"file {file!r} lies in no class folder; restore it as it was published")
    return folders[0]
