"""Frames, pictures and progress as Dagster shows them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.vision.machine.interruption import interrupts_come_through

if TYPE_CHECKING:
    import polars as pl

_SHA256 = re.compile("[0-9a-f]{64}")
_COLUMN_TYPES = {"Int": "int", "UInt": "int", "Float": "float", "Boolean": "bool"}


def table(frame: pl.DataFrame, *, max_rows: int = 100) -> dg.TableMetadataValue:
    """The first rows of a frame; nested values become text, fractions keep five digits, hashes their first twelve."""
    nested = {name for name, kind in frame.schema.items() if kind.is_nested()}
    rows = [
        {name: str(value) if name in nested else _shown(value) for name, value in row.items()}
        for row in frame.head(max_rows).to_dicts()
    ]
    columns = [
        dg.TableColumn(name, next((t for start, t in _COLUMN_TYPES.items() if str(kind).startswith(start)), "string"))
        for name, kind in frame.schema.items()
    ]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], dg.TableSchema(columns=columns))


def _shown(value: Any) -> Any:
    if isinstance(value, str) and _SHA256.fullmatch(value):
        return f"{value[:12]}…"
    return float(f"{value:.5g}") if isinstance(value, float) else value


def one_row(**values: str) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame([values])


def picture(image: bytes) -> dg.MarkdownMetadataValue:
    """A PNG or JPEG of at most 100 KB, inside the event log, as the UI shows it."""
    from platform_assets.vision.views.figures import as_markdown

    return dg.MetadataValue.md(as_markdown(image))


def every_two_seconds(log: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    """A progress callback `(done, total)` that logs count, rate and time left, at most every two seconds and at the end."""
    start = last = 0.0
    first = seen = 0

    def report(done: int, total: int) -> None:
        nonlocal start, last, first, seen
        now = time.monotonic()
        if start == 0.0 or done < seen:  # the first call, or of another round
            start, last, first = now, now, done
        seen = done
        if now - last < 2 and (done < total or now - start < 2):
            return
        last = now
        rate = max(done - first, 1) / (now - start)
        log(f"{what}: {done:,} of {total:,}, {rate:,.0f}/s, {(total - done) / rate:,.0f} s left")

    return report


@contextmanager
def stops_cleanly(what_is_kept: str) -> Iterator[None]:
    """Ctrl-C or Terminate ends the step for good; with a retry policy Dagster would start it again (dagster#15026)."""
    try:
        with interrupts_come_through():
            yield
    except dg.DagsterExecutionInterruptedError as interrupted:
        raise dg.Failure(
            f"Stopped by request. {what_is_kept} Materialize again to go on from there.", allow_retries=False
        ) from interrupted
