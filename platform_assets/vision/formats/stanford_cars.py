"""Stanford Cars as it is published, in either of its two layouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from platform_assets.vision.datasets.sources import Candidates, Source
from platform_assets.vision.formats.entries import ClassIds, Entry, by_id, image_candidates
from platform_assets.vision.formats.mat_files import mat_entries, plain, read_mat
from platform_assets.vision.formats.set_files import has_file

_META, _TRAIN, _WHOLE = "devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_annos.mat"
_TEST = ("devkit/cars_test_annos_withlabels.mat", "cars_test_annos_withlabels.mat")
_CORNERS = {"bbox_x1": "xmin", "bbox_y1": "ymin", "bbox_x2": "xmax", "bbox_y2": "ymax"}


class StanfordCarsSource(Source):
    """Stanford Cars (Krause et al., 3dRR at ICCV 2013), by its devkit or by its later single list.

    Devkit: `devkit/cars_meta.mat`, `devkit/cars_train_annos.mat`, `cars_test_annos_withlabels.mat` (in `devkit/` or
    beside it), `cars_train/`, `cars_test/`. Single list, taken when there is no devkit/cars_meta.mat: `cars_annos.mat`
    with the images that it names, in `car_ims/`. Class ids count from 1; the label order is that of `class_names`.
    Boxes are written from pixel 1 with the last pixel in, as MATLAB counts, and are converted to x, y, width, height
    from pixel 0. Test images are Kestrel's test part, val is drawn from train.
    """

    kind: Literal["stanford_cars"]

    def own_files(self, root: Path) -> tuple[str, ...]:
        return (_WHOLE,) if _is_single_list(root) else (_META, _TRAIN, _test_file(root))

    def read(self, root: Path) -> Candidates:
        """One row a record of the annotations."""
        classes_in = _WHOLE if _is_single_list(root) else _META
        known = ClassIds()
        for number, name in enumerate(read_mat(root, classes_in, ("class_names",))["class_names"], 1):
            entry = Entry(f"{classes_in} class {number}", {"name": plain(name)})
            known.add(entry, number, entry.text("name"))
        listed = _single_list(root) if _is_single_list(root) else _devkit_lists(root)
        images = by_id(listed, lambda entry: entry.text("path"))
        rows = (
            (entry, _row(entry) | {"label": known.name(entry, entry.whole("class", first=1), classes_in=classes_in)})
            for entry in images.values()
        )
        return image_candidates(root, rows, classes=known.in_order(), columns=("box",))


def _is_single_list(root: Path) -> bool:
    return has_file(root, _WHOLE) and not has_file(root, _META)


def _test_file(root: Path) -> str:
    return next((file for file in _TEST if has_file(root, file)), _TEST[0])


def _devkit_lists(root: Path) -> Iterator[Entry]:
    for file, folder, is_test in ((_TRAIN, "cars_train", 0), (_test_file(root), "cars_test", 1)):
        for entry in _records(root, file, ("fname",)):
            yield Entry(entry.where, {**entry.cells, "path": f"{folder}/{entry.text('fname')}", "test": is_test})


def _single_list(root: Path) -> Iterator[Entry]:
    for entry in _records(root, _WHOLE, ("relative_im_path", "test")):
        yield Entry(entry.where, {**entry.cells, "path": entry.text("relative_im_path")})


def _records(root: Path, file: str, fields: tuple[str, ...]) -> Iterator[Entry]:
    return mat_entries(file, read_mat(root, file, ("annotations",))["annotations"], (*_CORNERS, "class", *fields))


def _row(entry: Entry) -> dict[str, object]:
    corners = Entry(entry.where, {corner: entry.cells[field] for field, corner in _CORNERS.items()})
    return {
        "path": entry.text("path"),
        "split": "test" if entry.flag("test") else "train",
        "box": corners.corner_box(first_pixel=1),
    }
