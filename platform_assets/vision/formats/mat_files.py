"""MATLAB files of published sets (level 5, as MATLAB 5 to 7.2 write them) as numbers, texts, lists and records."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from platform_assets.vision.datasets.sources import BadSource
from platform_assets.vision.formats.entries import Entry
from platform_assets.vision.formats.set_files import read_bytes

# 2026-11: scipy.io.loadmat (1.17.1) takes the process down with a segmentation fault on damaged files, within seconds of random
# changes to a good one. Use it again when it raises instead; the tests hold this reader against it on good files.
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)
_COMPLEX = 0x800
_NUMBER_CODES = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_ENCODINGS = {
    "<": {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le", 18: "utf-32-le"},
    ">": {1: "latin-1", 2: "latin-1", 4: "utf-16-be", 16: "utf-8", 17: "utf-16-be", 18: "utf-32-be"},
}
_MOST_BYTES = 1 << 28
_DEEPEST = 8


class _Damaged(ValueError):
    """What is wrong with the bytes."""


def read_mat(root: Path, file: str, names: Sequence[str]) -> dict[str, list[object]]:
    """The elements of the named variables, column by column as in MATLAB.

    A cell array gives its values, a struct array one dict a record, a number array numbers, a text itself. Nothing of
    the file is run. Raises BadSource.
    """
    data = read_bytes(root, file)
    try:
        found = dict(_variables(memoryview(data), names))
    except _Damaged as damage:
        said = f"{file}: not a MATLAB file that can be read ({damage}); restore it as it was published"
        raise BadSource(said) from damage
    if missing := [name for name in names if name not in found]:
        raise BadSource(f"{file}: has no variable {missing[0]!r}; restore it as it was published")
    return {name: found[name] for name in names}


def mat_entries(file: str, records: Sequence[object], fields: Sequence[str]) -> Iterator[Entry]:
    """The records of a struct array, numbered from 1 as in MATLAB. Raises BadSource when they lack a field."""
    for number, record in enumerate(records, 1):
        cells = record if isinstance(record, dict) else {}
        if missing := [field for field in fields if field not in cells]:
            raise BadSource(f"{file} record {number}: has no field {missing[0]!r}; restore it as it was published")
        yield Entry(f"{file} record {number}", {field: plain(cells[field]) for field in fields})


def plain(value: object) -> object:
    """The one value in a list of one, however deep; anything else as it is."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


@dataclass(frozen=True, slots=True)
class _Array:
    """The head of an array, and the data elements that follow it."""

    kind: int
    rows: int
    count: int
    name: str
    contents: Iterator[tuple[int, memoryview]]


def _variables(data: memoryview, names: Sequence[str]) -> Iterator[tuple[str, list[object]]]:
    order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(bytes(data[124:128]))
    if order is None:
        raise _Damaged("it has no level 5 header; MATLAB writes one with save -v7")
    for kind, body in _elements(data[128:], order):
        if kind == _COMPRESSED:
            kind, body = _next(_elements(_inflated(body), order))
        if kind == _MATRIX and (array := _array(body, order)) is not None and array.name in names:
            yield array.name, _values(array, order, depth=0)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and bytes of each element: behind a tag of eight bytes, or, up to four of them, in the tag itself."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise _Damaged("it ends inside of a tag")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if in_tag := kind >> 16:
            kind, size = kind & 0xFFFF, in_tag
        start = at + (4 if in_tag else 8)
        end = start + size
        if end > (at + 8 if in_tag else len(data)):
            raise _Damaged("an element is longer than the place it has")
        yield kind, data[start:end]
        at = at + 8 if in_tag else end + (0 if kind == _COMPRESSED else -size % 8)


def _next(elements: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    found = next(elements, None)
    if found is None:
        raise _Damaged("an array ends too early")
    return found


def _inflated(body: memoryview) -> memoryview:
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(body, _MOST_BYTES)
    except zlib.error as error:
        raise _Damaged(str(error)) from error
    if not inflater.eof:
        raise _Damaged(f"a compressed variable is cut off, or has over {_MOST_BYTES:,} bytes")
    return memoryview(data)


def _array(body: memoryview, order: str) -> _Array | None:
    """None for an array of a class that is not read here: sparse matrices, objects, functions."""
    contents = _elements(body, order)
    flags, *_ = (*_numbers(_next(contents), order), 0)
    kind = int(flags) & 0xFF
    if kind not in (_CELL, _STRUCT, _CHAR, *_NUMERIC):
        return None
    if int(flags) & _COMPLEX:
        raise _Damaged("a number is complex")
    sizes = [int(size) for size in _numbers(_next(contents), order)]
    if len(sizes) < 2 or min(sizes) < 0:
        raise _Damaged(f"an array has the sizes {sizes[:4]}")
    name = bytes(_next(contents)[1]).decode("latin-1")
    return _Array(kind, sizes[0], math.prod(sizes), name, contents)


def _values(array: _Array, order: str, *, depth: int) -> list[object]:
    if array.kind == _CELL:
        return [_nested(array, order, depth) for _ in range(array.count)]
    if array.kind == _STRUCT:
        names = _field_names(array, order)
        return [{name: _nested(array, order, depth) for name in names} for _ in range(array.count)]
    if array.kind == _CHAR:
        return [_text(array, order)]
    numbers = _numbers(_next(array.contents), order) if array.count else ()
    if len(numbers) != array.count:
        raise _Damaged(f"an array of {array.count} numbers holds {len(numbers)}")
    return list(numbers)


def _nested(outer: _Array, order: str, depth: int) -> object:
    """A list of values, or a text."""
    kind, body = _next(outer.contents)
    if depth == _DEEPEST or kind != _MATRIX:
        raise _Damaged("an array holds what is none, or holds arrays too deep")
    if not body:
        return []
    array = _array(body, order)
    if array is None:
        raise _Damaged("an array holds an object, a function or a sparse matrix")
    values = _values(array, order, depth=depth + 1)
    return values[0] if array.kind == _CHAR else values


def _field_names(array: _Array, order: str) -> list[str]:
    """Padded with zeros to one length, which stands before them."""
    length, *_ = (*_numbers(_next(array.contents), order), 0)
    joined = bytes(_next(array.contents)[1])
    if length < 1 or not joined:
        raise _Damaged("a struct array has no fields")
    cut = [joined[start : start + int(length)] for start in range(0, len(joined), int(length))]
    return [name.split(b"\0")[0].decode("latin-1") for name in cut]


def _text(array: _Array, order: str) -> str:
    if not array.count:
        return ""
    if array.rows != 1:
        raise _Damaged(f"a text has {array.rows} rows")
    kind, body = _next(array.contents)
    try:
        return str(body, _ENCODINGS[order][kind])
    except (KeyError, UnicodeDecodeError) as error:
        raise _Damaged(f"a text cannot be decoded: {error}") from error


def _numbers(element: tuple[int, memoryview], order: str) -> tuple[int | float, ...]:
    kind, body = element
    code = _NUMBER_CODES.get(kind)
    if code is None or len(body) % struct.calcsize(f"{order}{code}"):
        raise _Damaged(f"{len(body)} bytes of type {kind} are no numbers")
    found: tuple[int | float, ...] = struct.unpack(
        f"{order}{len(body) // struct.calcsize(f'{order}{code}')}{code}", body
    )
    return found
