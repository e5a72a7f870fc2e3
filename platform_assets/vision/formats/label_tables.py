"""Text tables as rows of cells, and what a label cell means: a name, an id named elsewhere, or a number in a range."""

from __future__ import annotations

import csv
import io
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from platform_assets.vision.datasets.label_map import UnknownLabel, normal_label
from platform_assets.vision.datasets.sources import BadSource
from platform_assets.vision.formats.tables import ColumnRef, LabelBins, LabelNames, Table


def label_reader(spec: Table, root: Path) -> tuple[tuple[str, ...] | None, Callable[[str], str]]:
    """The dataset's own class list, if it has one, and the function from a label cell to a class name.

    The function raises UnknownLabel.
    """
    if spec.label_names is not None:
        by_id = _read_label_names(spec.label_names, root)
        return tuple(by_id.values()), _lookup(by_id, spec.label_names.file)
    if spec.label_bins is not None:
        return _binning(spec.label_bins)
    if spec.classes is not None:
        lookup = _lookup({name: name for name in spec.classes}, "classes")
        return spec.classes, lambda cell: lookup(normal_label(cell))
    return None, normal_label


def name_reader(names: LabelNames | None, root: Path) -> Callable[[str], str]:
    """The function from an id cell to its name, or to the name that the cell itself is; raises UnknownLabel."""
    return normal_label if names is None else _lookup(_read_label_names(names, root), names.file)


def table_rows(
    file: Path, separator: str, *, header: bool, columns: Mapping[str, ColumnRef]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and wanted cells, stripped, of each line that is not blank. A short line lacks the cells it lacks.

    Raises BadSource.
    """
    lines = _lines(file, separator)
    names = next(lines, (0, []))[1] if header else []
    if unknown := [ref for ref in columns.values() if isinstance(ref, str) and names.count(ref) != 1]:
        raise BadSource(
            f"{file}: columns {unknown} do not stand once in its header {names}; correct columns or separator"
        )
    positions = {name: names.index(ref) if isinstance(ref, str) else ref for name, ref in columns.items()}
    for line, values in lines:
        yield line, {name: values[at] for name, at in positions.items() if at < len(values)}


def _lookup(by_id: Mapping[str, str], where: str) -> Callable[[str], str]:
    def name_of(cell: str) -> str:
        try:
            return by_id[cell]
        except KeyError:
            raise UnknownLabel(f"label {cell!r} is not in {where}; add it there or correct the row") from None

    return name_of


def _binning(bins: LabelBins) -> tuple[tuple[str, ...], Callable[[str], str]]:
    names = tuple(normal_label(name) for name in bins.names)

    def name_of(cell: str) -> str:
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if math.isnan(value):
            raise UnknownLabel(f"label {cell!r} is not a number, as label_bins needs; correct the row")
        return names[bisect_left(bins.breaks, value)]

    return names, name_of


def _read_label_names(spec: LabelNames, root: Path) -> dict[str, str]:
    """Id to class name, in order of the ids when all are integers, else of the file."""
    named: dict[str, str] = {}
    columns = {"id": spec.id, "name": spec.name}
    for line, cells in table_rows(root / spec.file, spec.separator, header=True, columns=columns):
        key, name = cells.get("id", ""), normal_label(cells.get("name", ""))
        if not key or not name:
            raise BadSource(f"{spec.file} line {line}: id or name is missing; every class needs both")
        if (above := named.setdefault(key, name)) != name:
            raise BadSource(f"{spec.file} line {line}: id {key} is {name!r} here and {above!r} above; give it one name")
    if repeated := sorted(name for name, count in Counter(named.values()).items() if count > 1):
        raise BadSource(f"{spec.file}: classes {repeated} have more than one id; give every id its own name")
    integers = all(key.isascii() and key.removeprefix("-").isdigit() for key in named)
    return dict(sorted(named.items(), key=lambda item: int(item[0]))) if integers else named


def _lines(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSource(f"{file}: not UTF-8 at byte {error.start}; save the table as UTF-8") from error
    except OSError as error:
        raise BadSource(f"{file}: {error.strerror}; correct the table's name in the source") from error
    if separator == "whitespace":
        yield from ((line, row.split()) for line, row in enumerate(text.splitlines(), 1) if row.strip())
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise BadSource(f"{file} line {reader.line_num}: {error}; correct the table or its separator") from error
