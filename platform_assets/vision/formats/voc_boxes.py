"""Boxes of the objects in a Pascal VOC annotation file (Everingham et al., IJCV 2010); nothing else of it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from platform_assets.vision.datasets.sources import BadSource
from platform_assets.vision.formats.entries import Entry
from platform_assets.vision.formats.set_files import read_bytes


def largest_box(root: Path, file: str, *, first_pixel: int) -> list[float]:
    """The box of the object that covers most pixels, the first of equals. Raises BadSource, also without objects."""
    boxes = [
        Entry(f"{file} object {number}", _corners(element)).corner_box(first_pixel=first_pixel)
        for number, element in enumerate(_root_element(root, file).iter("object"), 1)
    ]
    if not boxes:
        raise BadSource(f"{file}: holds no object; restore it as it was published")
    return max(boxes, key=lambda box: box[2] * box[3])


def _corners(element: ElementTree.Element) -> dict[str, str]:
    found = {corner: element.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")}
    return {corner: text.strip() for corner, text in found.items() if text is not None}


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, and with it every entity but XML's own five."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = file

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise BadSource(f"{self._file}: declares a document type, and entities are not read; remove the declaration")


def _root_element(root: Path, file: str) -> ElementTree.Element:
    data = read_bytes(root, file)
    parser = ElementTree.XMLParser(target=_NoDoctype(file))
    try:
        return ElementTree.fromstring(data, parser=parser)
    except ElementTree.ParseError as error:
        raise BadSource(
            f"{file} line {error.position[0]}: not XML ({error}); restore it as it was published"
        ) from error
    except BadSource:
        raise
    except (LookupError, ValueError) as error:  # an encoding that Python does not know, or that has several bytes
        raise BadSource(f"{file} line 1: not XML ({error}); restore it as it was published") from error
