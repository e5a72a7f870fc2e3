"""Damage to the files of a set, and the exact complaint that must follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from platform_assets.vision.datasets.sources import BadSource, Source
from platform_tests.vision.pictures import write

Edit = tuple[str, str, str]
"""File, the text in it that is replaced (empty: the file is removed), the text that replaces it."""


def edit(root: Path, change: Edit) -> None:
    file, old, new = change
    if not old:
        (root / file).unlink()
        return
    data = (root / file).read_bytes()
    assert old.encode() in data, f"{old!r} is not in {file}"
    write(root, file, data.replace(old.encode(), new.encode("latin-1"), 1))


def complaint(source: Source, root: Path) -> str:
    """The message of the BadSource that reading raises, with the root named {root}."""
    with pytest.raises(BadSource) as caught:
        source.read(root)
    return str(caught.value).replace(str(root), "{root}")


def refusal_of(read: Callable[[], object]) -> str | None:
    """The message when reading is refused, None when it is not; any other error gets out."""
    try:
        read()
    except BadSource as bad:
        return str(bad)
    return None


RESTORE = "restore it as it was published"
NOT_THERE = "no such file below {root}; unpack the whole set there, or correct `path` and `folder`"
