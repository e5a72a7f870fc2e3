"""NABirds as it is published: the lists of CUB under other ids, and a hierarchy of classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from platform_assets.vision.datasets.label_map import normal_label
from platform_assets.vision.datasets.sources import BadSource, Candidates, Source
from platform_assets.vision.formats.cub import BIRD_COLUMNS, BIRD_LISTS, BirdImage, bird_images, class_names
from platform_assets.vision.formats.entries import ClassIds, Entry, by_id, image_candidates
from platform_assets.vision.formats.id_lists import list_entries


class NabirdsSource(Source):
    """NABirds (Van Horn et al., CVPR 2015): the folder that holds `images.txt`, `hierarchy.txt` and `images/`.

    Class ids count from 0 and run through all 1,011 nodes of the hierarchy; the 555 leaves that have images are the
    classes, in order of their ids. `hierarchy` goes from the root (`Birds`) to the parent. Image ids are texts with
    dashes. Boxes and parts count from pixel 0. sizes.txt is not read: the decoded picture says its size.
    """

    kind: Literal["nabirds"]

    def own_files(self, root: Path) -> tuple[str, ...]:
        return (*BIRD_LISTS, "hierarchy.txt")

    def read(self, root: Path) -> Candidates:
        """One row a line of images.txt."""
        nodes = class_names(root, first=0)
        parents = _parents(root, nodes)
        above = {node: _ancestors(node, parents, nodes) for node in sorted(nodes)}
        inner = {entry.whole("parent id", first=0) for entry in parents.values()}
        birds = list(bird_images(root, lambda entry: entry.text("image id"), first_class=0, first_part=0))
        classes, rows = ClassIds(), []
        for bird in birds:
            label = classes.add(*_leaf(bird, nodes, inner))
            rows.append((bird.entry, bird.row | {"label": label, "hierarchy": above[bird.class_id]}))
        return image_candidates(root, rows, classes=classes.in_order(), columns=("hierarchy", *BIRD_COLUMNS))


def _leaf(bird: BirdImage, nodes: Mapping[int, Entry], inner: set[int]) -> tuple[Entry, int, str]:
    """The line that labels the image, the id and the name of its class. Raises BadSource unless that is a leaf."""
    if bird.class_id not in nodes:
        raise bird.labelled.fault(
            f"class id {bird.class_id} is not in classes.txt; add the class there, or correct the id"
        )
    if bird.class_id in inner:
        raise bird.labelled.fault(
            f"class id {bird.class_id} has classes below it in hierarchy.txt; label the image with one of those"
        )
    return bird.labelled, bird.class_id, nodes[bird.class_id].text("class name")


def _parents(root: Path, nodes: Mapping[int, Entry]) -> dict[int, Entry]:
    """Lines of hierarchy.txt by the id of the child. Every node but one, the root, has a line."""
    file = "hierarchy.txt"
    lines = by_id(list_entries(root, file, ("class id", "parent id")), lambda entry: entry.whole("class id", first=0))
    for node, entry in lines.items():
        parent = entry.whole("parent id", first=0)
        for class_id in (node, parent):
            if class_id not in nodes:
                raise entry.fault(f"class id {class_id} is not in classes.txt; add it there, or remove the line")
    roots = sorted(set(nodes).difference(lines))
    if len(roots) != 1:
        raise BadSource(
            f"{file}: classes {roots[:5]} have no parent, but one root is needed; restore the missing lines"
        )
    return lines


def _ancestors(node: int, parents: Mapping[int, Entry], nodes: Mapping[int, Entry]) -> list[str]:
    """Names from the root down to the parent. Raises BadSource for a circle."""
    chain: list[int] = []
    while (entry := parents.get(node)) is not None:
        node = entry.whole("parent id", first=0)
        if node in chain:
            raise entry.fault(f"class id {node} is above itself; correct the parent")
        chain.append(node)
    return [normal_label(nodes[above].text("class name")) for above in reversed(chain)]
