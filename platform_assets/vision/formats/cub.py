"""CUB-200-2011 as it is published, and the lists of images, boxes and parts that NABirds shares with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal

from platform_assets.vision.datasets.sources import Candidates, Source
from platform_assets.vision.formats.entries import ClassIds, Entry, Key, by_id, image_candidates, require_same_ids
from platform_assets.vision.formats.id_lists import list_entries

BIRD_LISTS = (
    *("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt", "bounding_boxes.txt"),
    *("parts/parts.txt", "parts/part_locs.txt"),
)
BIRD_COLUMNS = ("box", "parts")


class CubSource(Source):
    """CUB-200-2011 (Wah et al., Caltech CNS-TR-2011-001): the folder that holds `images.txt` and `images/`.

    Ids count from 1; the label order is that of the class ids, a label is the name in classes.txt
    (`001.Black_footed_Albatross`). Test images are Kestrel's test part, val is drawn from train. Box and parts are as in
    the files: their README names no first pixel, it is taken as 0. A part that is not visible has no place.
    """

    kind: Literal["cub"]

    def own_files(self, root: Path) -> tuple[str, ...]:
        return BIRD_LISTS

    def read(self, root: Path) -> Candidates:
        """One row a line of images.txt."""
        known = ClassIds()
        for class_id, entry in class_names(root, first=1).items():
            known.add(entry, class_id, entry.text("class name"))
        classes = known.without_gaps(first=1, classes_in="classes.txt")
        birds = bird_images(root, lambda entry: entry.whole("image id", first=1), first_class=1, first_part=1)
        rows = (
            (bird.entry, bird.row | {"label": known.name(bird.labelled, bird.class_id, classes_in="classes.txt")})
            for bird in birds
        )
        return image_candidates(root, rows, classes=classes, columns=BIRD_COLUMNS)


@dataclass(frozen=True, slots=True)
class BirdImage:
    """What the lists say of an image: its line in images.txt, all columns but the label, and the line with its class."""

    entry: Entry
    row: dict[str, object]
    labelled: Entry
    class_id: int


def class_names(root: Path, *, first: int) -> dict[int, Entry]:
    """Lines of classes.txt by class id."""
    lines = list_entries(root, "classes.txt", ("class id", "class name"), open_end=True)
    return by_id(lines, lambda entry: entry.whole("class id", first=first))


def bird_images(
    root: Path, image_id: Callable[[Entry], Key], *, first_class: int, first_part: int
) -> Iterator[BirdImage]:
    """The images in the order of images.txt. `image_id` reads the cell of that name. Raises BadSource."""
    lists = _ImageLists(root, image_id)
    labels = lists.same_images("image_class_labels.txt", ("class id",))
    splits = lists.same_images("train_test_split.txt", ("is training image",))
    boxes = lists.same_images("bounding_boxes.txt", ("x", "y", "width", "height"))
    points = lists.points(_part_names(root, first_part), first_part)
    for key, entry in lists.images.items():
        row: dict[str, object] = {
            "path": f"images/{entry.text('path')}",
            "split": "train" if splits[key].flag("is training image") else "test",
            "box": boxes[key].box(),
            "parts": points[key],
        }
        yield BirdImage(entry, row, labels[key], labels[key].whole("class id", first=first_class))


class _ImageLists(Generic[Key]):
    """images.txt, and the other lists that go by its ids."""

    def __init__(self, root: Path, image_id: Callable[[Entry], Key]) -> None:
        self._root = root
        self._image_id: Callable[[Entry], Key] = image_id
        self.images: dict[Key, Entry] = by_id(
            list_entries(root, "images.txt", ("image id", "path"), open_end=True), image_id
        )

    def same_images(self, file: str, columns: tuple[str, ...]) -> dict[Key, Entry]:
        """A list with one line an image."""
        listed = by_id(list_entries(self._root, file, ("image id", *columns)), self._image_id)
        require_same_ids(self.images, listed, images_in="images.txt", listed_in=file)
        return listed

    def points(self, names: dict[int, str], first_part: int) -> dict[Key, list[dict[str, object]]]:
        """The parts of each image, in the order of their ids."""
        file, found = "parts/part_locs.txt", dict[Key, dict[int, dict[str, object]]]()
        last: dict[Key, Entry] = {}
        for entry in list_entries(self._root, file, ("image id", "part id", "x", "y", "visible")):
            key, part = self._image_id(entry), entry.whole("part id", first=first_part)
            if part not in names:
                raise entry.fault(f"part id {part} is not in parts/parts.txt; add the part there, or correct the id")
            if part in found.setdefault(key, {}):
                raise entry.fault(f"part {part} of image {key} stands above already; keep one of the two")
            found[key][part] = _point(names[part], entry)
            last[key] = entry
        require_same_ids(self.images, last, images_in="images.txt", listed_in=file)
        return {key: [parts[part] for part in sorted(parts)] for key, parts in found.items()}


def _point(name: str, entry: Entry) -> dict[str, object]:
    """The files write 0 0 or -1 -1 where nothing is to be seen: no place, rather than a wrong one."""
    x, y, visible = entry.number("x"), entry.number("y"), entry.flag("visible")
    return {"name": name, "x": x if visible else None, "y": y if visible else None, "visible": visible}


def _part_names(root: Path, first_part: int) -> dict[int, str]:
    lines = list_entries(root, "parts/parts.txt", ("part id", "part name"), open_end=True)
    named = by_id(lines, lambda entry: entry.whole("part id", first=first_part))
    return {part: entry.text("part name") for part, entry in named.items()}
