"""Text lists of one entry a line, columns apart by blanks, as the fine-grained sets publish their ids and names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from platform_assets.vision.datasets.sources import BadSource
from platform_assets.vision.formats.entries import Entry
from platform_assets.vision.formats.set_files import read_text


def list_entries(
    root: Path, file: str, columns: Sequence[str], *, open_end: bool = False, comment: str | None = None
) -> Iterator[Entry]:
    """Each line that is not blank and does not start with `comment`, cut into `columns`.

    With `open_end` the last column is the rest of the line, blanks in it and all. Raises BadSource for a line with
    another number of columns, and for a file without lines.
    """
    entry = None
    for number, line in enumerate(read_text(root, file).split("\n"), 1):
        if not line.strip() or (comment and line.startswith(comment)):
            continue
        cells = line.split(maxsplit=len(columns) - 1) if open_end else line.split()
        entry = Entry(f"{file} line {number}", dict(zip(columns, map(str.strip, cells), strict=False)))
        if len(cells) != len(columns):
            wanted = ", ".join(columns)
            raise entry.fault(
                f"{len(cells)} columns instead of {len(columns)} ({wanted}); restore it as it was published"
            )
        yield entry
    if entry is None:
        raise BadSource(f"{file}: the file is empty; restore it as it was published")
