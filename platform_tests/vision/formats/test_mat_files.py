"""The MATLAB reader against scipy's on good files, and on damaged ones, where scipy's takes the process down."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from platform_assets.vision.datasets.sources import BadSource
from platform_assets.vision.formats.mat_files import plain, read_mat
from platform_tests.vision.formats.damage import refusal_of
from platform_tests.vision.pictures import write

NAME = "f.mat"
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
NUMBERS = st.one_of(
    st.integers(-(2**31), 2**31).map(np.int64),
    st.integers(0, 255).map(np.uint8),
    st.floats(width=64, allow_nan=False).map(np.float64),
    st.floats(width=32, allow_nan=False).map(np.float32),
)
RECORDS = st.lists(st.tuples(NUMBERS, TEXTS), min_size=1, max_size=5)
SHARED = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stored(compressed: bool = False, **variables: Any) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def records_of(values: list[tuple[Any, str]]) -> np.ndarray[Any, Any]:
    found = np.zeros((1, len(values)), dtype=[("number", object), ("text", object)])
    for place, value in enumerate(values):
        found[0, place] = value
    return found


@SHARED
@given(values=RECORDS, compressed=st.booleans())
def test_mat__records_as_scipy_reads_them(tmp_path: Path, values: list[tuple[Any, str]], compressed: bool) -> None:
    data = stored(compressed, other=np.eye(2), records=records_of(values))
    write(tmp_path, NAME, data)
    ours = [(plain(r["number"]), r["text"]) for r in read_mat(tmp_path, NAME, ("records",))["records"]]  # type: ignore[index]
    scipys = loadmat(io.BytesIO(data))["records"].ravel()
    assert ours == [(record["number"].item(), record["text"].item()) for record in scipys]


@SHARED
@given(texts=st.lists(TEXTS, min_size=1, max_size=5), numbers=st.lists(NUMBERS, min_size=1, max_size=5))
def test_mat__columns_of_cells_and_numbers(tmp_path: Path, texts: list[str], numbers: list[Any]) -> None:
    cells = np.empty((len(texts), 1), dtype=object)
    cells[:, 0] = texts
    write(tmp_path, NAME, stored(cells=cells, numbers=np.array(numbers, np.float64)[:, None]))
    found = read_mat(tmp_path, NAME, ("cells", "numbers"))
    assert found == {"cells": texts, "numbers": [float(number) for number in numbers]}


def test_mat__big_endian_file_with_small_elements(tmp_path: Path) -> None:
    """By hand, after MathWorks' description of the format: no writer here makes one."""
    name = b"\0\x01\0\x01x\0\0\0"
    flags = b"\0\0\0\x06\0\0\0\x08\0\0\0\x06\0\0\0\0"
    sizes = b"\0\0\0\x05\0\0\0\x08\0\0\0\x01\0\0\0\x02"
    numbers = b"\0\x04\0\x03\x01\x02\0\x03"
    body = flags + sizes + name + numbers
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\0MI"
    write(tmp_path, NAME, header + b"\0\0\0\x0e" + len(body).to_bytes(4, "big") + body)
    assert read_mat(tmp_path, NAME, ("x",)) == {"x": [258, 3]}


def test_mat__columns_first(tmp_path: Path) -> None:
    write(tmp_path, NAME, stored(x=np.array([[1, 2], [3, 4]])))
    assert read_mat(tmp_path, NAME, ("x",)) == {"x": [1, 3, 2, 4]}


def boxed(times: int) -> np.ndarray[Any, Any]:
    """A cell in a cell in a cell."""
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = boxed(times - 1) if times > 1 else "core"
    return cell


GOOD = stored(x=np.arange(40.0))
DAMAGE = {
    "version 7.3": (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM" + bytes(400), "it has no level 5 header"),
    "empty": (b"", "it has no level 5 header"),
    "cut off": (GOOD[:-8], "an element is longer than the place it has"),
    "cut off in a tag": (GOOD + b"\1\0\0", "it ends inside of a tag"),
    "compression broken": (stored(True, x=1.0).replace(b"x\x9c", b"x\x9d", 1), "incorrect header check"),
    "compression cut off": (stored(True, x=np.arange(400.0))[:-40], "an element is longer than the place it has"),
    "wrong number of numbers": (
        GOOD.replace((40).to_bytes(4, "little"), (41).to_bytes(4, "little"), 1),
        "an array of 41 numbers holds 40",
    ),
    "negative size": (GOOD.replace(b"\x28\0\0\0", b"\xff\xff\xff\xff", 1), "an array has the sizes [1, -1]"),
    "complex": (stored(x=np.array([1j])), "a number is complex"),
    "text of two rows": (stored(x=np.array(["ab", "cd"])), "a text has 2 rows"),
    "too deep": (stored(x=boxed(10)), "an array holds what is none, or holds arrays too deep"),
}


@pytest.mark.parametrize(("data", "said"), DAMAGE.values(), ids=DAMAGE)
def test_mat__damage(tmp_path: Path, data: bytes, said: str) -> None:
    write(tmp_path, NAME, data)
    with pytest.raises(BadSource) as caught:
        read_mat(tmp_path, NAME, ("x",))
    message = str(caught.value)
    assert message.startswith(f"{NAME}: not a MATLAB file that can be read (")
    assert said in message


def test_mat__cells_in_cells(tmp_path: Path) -> None:
    write(tmp_path, NAME, stored(x=boxed(4)))
    assert plain(read_mat(tmp_path, NAME, ("x",))["x"]) == "core"


def test_mat__compressed_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform_assets.vision.formats.mat_files._MOST_BYTES", 1000)
    write(tmp_path, NAME, stored(True, x=np.zeros(1000)))
    with pytest.raises(BadSource, match=r"a compressed variable is cut off, or has over 1,000 bytes"):
        read_mat(tmp_path, NAME, ("x",))


SAMPLES = [stored(c, x=records_of([(np.uint8(3), "a.jpg"), (np.float64(0.5), "b.jpg")])) for c in (False, True)]
CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sample=st.sampled_from([0, 1]), changes=CHANGES, cut=st.integers(0, 2000))
def test_mat__any_damage_is_read_or_refused(
    tmp_path: Path, sample: int, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(SAMPLES[sample])
    for place, byte in changes:
        data[128 + place % (len(data) - 128)] = byte
    write(tmp_path, NAME, bytes(data[: max(cut, 128)]))
    message = refusal_of(lambda: read_mat(tmp_path, NAME, ("x",)))
    assert message is None or message.startswith(f"{NAME}: ")
