"""Facts of image files by content: a file is read, hashed and decoded once, and never again while its facts are known."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import polars as pl

from platform_assets.vision.decoding import MAX_PIXELS, ImageFacts, RejectReason, UnreadableImage, inspect_image
from platform_assets.vision.perceptual_hash import phashes

_IMAGE_SCHEMA: dict[str, Any] = {
    **{"width": pl.Int32, "height": pl.Int32, "mode": pl.String, "format": pl.String, "phash": pl.String},
    **{"pixel_mean": pl.Array(pl.Float32, 3), "pixel_std": pl.Array(pl.Float32, 3)},
}
_CONTENT_SCHEMA = {"bytes": pl.Int64, "reason": pl.String, "detail": pl.String, **_IMAGE_SCHEMA}
_FILE_SCHEMA = {"path": pl.String, "image_id": pl.String, **_CONTENT_SCHEMA}
FACTS_SCHEMA = {"image_id": pl.String, "made_by": pl.String, **_CONTENT_SCHEMA}

CHUNK_BYTES = 1 << 20
_NO_FACTS = (None,) * len(_IMAGE_SCHEMA)
_FILES_PER_TASK = 16
_FILES_PER_FRAME = 4096

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What earlier runs left: `hashes` as hash_files gives them, and the `facts` of an earlier scan, if there was one.

    `code` is the version of the code that facts follow from. Facts made by other code, or under another limit of
    pixels, are made anew.
    """

    hashes: pl.DataFrame
    facts: pl.DataFrame | None
    code: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """`files` has one row a path, sorted: image_id, bytes and facts of a readable image, or reason and detail.

    `facts` has the same by content, one row an image_id, for the next time. `files_read` were opened.
    """

    files: pl.DataFrame
    facts: pl.DataFrame
    files_read: int


def inspect_files(
    root: Path,
    paths: Iterable[str],
    *,
    max_pixels: int = MAX_PIXELS,
    known: Known | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> Inspection:
    """Every path once. One whose size and time are those of its known hash is not opened when that hash has facts.

    `on_progress` gets (files done, files in all) in the caller's thread.
    """
    ordered = sorted(set(paths))
    made_by = f"{known.code if known else ''}/{max_pixels}"
    held = _held(root, ordered, known, made_by)
    already = set(held["path"])
    unread = [path for path in ordered if path not in already]
    if on_progress is not None and already:
        on_progress(len(already), len(ordered))
    frames = [held]
    with closing(_tasks_in_threads(partial(_rows, root, max_pixels), unread, threads)) as rows:
        counted = _counted(rows, len(already), len(ordered), on_progress)
        while batch := list(islice(counted, _FILES_PER_FRAME)):
            frames.append(_frame(batch))
    files = pl.concat(frames).sort("path")
    del frames, held
    facts = files.filter(pl.col("image_id").is_not_null()).unique("image_id").sort("image_id")
    facts = facts.with_columns(made_by=pl.lit(made_by)).select(*FACTS_SCHEMA)
    return Inspection(files=files, facts=facts, files_read=len(unread))


def in_threads(work: Callable[[_In], _Out], items: Iterable[_In], threads: int | None = None) -> Generator[_Out]:
    """Results in the order of the items, a few tasks ahead of the one taken, so that memory does not grow with them.

    Closing it drops what waits; without that Ctrl-C works all of it off.
    """
    yield from _tasks_in_threads(lambda task: [work(item) for item in task], items, threads)


def _tasks_in_threads(
    work: Callable[[Iterator[_In]], list[_Out]], items: Iterable[_In], threads: int | None
) -> Generator[_Out]:
    """As in_threads, for work that is given the items of a task: they end early when it is closed."""
    threads, stopped, items = threads or os.cpu_count() or 1, Event(), iter(items)
    waiting: deque[Future[list[_Out]]] = deque()

    def work_off(task: Sequence[_In]) -> list[_Out]:
        return work(item for item in task if not stopped.is_set())

    pool = ThreadPoolExecutor(threads, thread_name_prefix="scan")
    try:
        while True:
            while len(waiting) < 4 * threads and (task := list(islice(items, _FILES_PER_TASK))):
                waiting.append(pool.submit(work_off, task))
            if not waiting:
                return
            yield from waiting.popleft().result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _held(root: Path, paths: Sequence[str], known: Known | None, made_by: str) -> pl.DataFrame:
    """The rows of the paths that need no reading."""
    if known is None or known.facts is None:
        return pl.DataFrame(schema=_FILE_SCHEMA)
    facts = known.facts.filter(pl.col("made_by") == made_by).drop("made_by")
    listed = known.hashes.rename({"sha256": "image_id"}).join(facts.select("image_id"), on="image_id", how="semi")
    listed = listed.join(pl.DataFrame({"path": paths}, schema={"path": pl.String}), on="path", how="semi")
    sizes_and_times = listed.select("path", "bytes", "mtime_ns").iter_rows()
    unchanged = [_is_unchanged(root, *row) for row in sizes_and_times]
    kept = listed.filter(pl.Series(unchanged, dtype=pl.Boolean)).select("path", "image_id")
    return kept.join(facts, on="image_id", how="left").select(*_FILE_SCHEMA)


def _is_unchanged(root: Path, path: str, size_bytes: int, mtime_ns: int) -> bool:
    try:
        found = os.stat(os.path.join(root, path))  # noqa: PTH116, PTH118 - a Path takes longer to make than this
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and (found.st_size, found.st_mtime_ns) == (size_bytes, mtime_ns)


def _counted(
    rows: Iterable[_Row], already: int, total: int, on_progress: Callable[[int, int], None] | None
) -> Iterator[_Row]:
    for done, row in enumerate(rows, already + 1):
        if on_progress is not None:
            on_progress(done, total)
        yield row


def _frame(rows: Sequence[_Row]) -> pl.DataFrame:
    """By columns, which takes polars a quarter of the time that rows do."""
    columns = zip(*rows, strict=True)
    return pl.DataFrame(
        [pl.Series(name, column, kind) for (name, kind), column in zip(_FILE_SCHEMA.items(), columns, strict=True)]
    )


def _rows(root: Path, max_pixels: int, paths: Iterable[str]) -> list[_Row]:
    """Rows of _FILE_SCHEMA. The hashes of a task's pictures are taken at once."""
    seen = [(path, *_seen(root, path, max_pixels)) for path in paths]
    hashes = iter(phashes([found.grey_32 for *_, found in seen if isinstance(found, ImageFacts)]))
    return [
        (path, image_id, size_bytes, None, None, *_columns(found, next(hashes)))
        if isinstance(found, ImageFacts)
        else (path, image_id, size_bytes, *found, *_NO_FACTS)
        for path, image_id, size_bytes, found in seen
    ]


def _columns(facts: ImageFacts, phash: str) -> _Row:
    return facts.width, facts.height, facts.mode, facts.format, phash, facts.pixel_mean, facts.pixel_std


def _seen(
    root: Path, path: str, max_pixels: int
) -> tuple[str | None, int | None, ImageFacts | tuple[RejectReason, str]]:
    """Hash, bytes, and the facts or why there are none."""
    place = os.path.join(root, path)  # noqa: PTH118 - a Path takes longer to make than this
    image_id, size_bytes = None, None
    try:
        data = _read(place, most_bytes=8 * max_pixels + CHUNK_BYTES)
        image_id, size_bytes = hashlib.sha256(data).hexdigest(), len(data)
        return image_id, size_bytes, inspect_image(data, max_pixels=max_pixels)
    except UnreadableImage as unreadable:
        return image_id, size_bytes, (unreadable.reason, unreadable.detail)
    except FileNotFoundError:
        return None, None, ("missing_file", "it was there when the scan began")
    except OSError as error:
        return None, None, ("unreadable_file", str(error))
    except BaseException as error:
        error.add_note(f"while reading {place}")
        raise


def _read(place: str, *, most_bytes: int) -> bytes:
    """The bytes of a regular file that is not absurdly large: no image in bounds needs over 8 bytes a pixel."""
    found = os.stat(place)  # noqa: PTH116
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImage("not_an_image", "not a regular file")
    if found.st_size > most_bytes:
        raise UnreadableImage("too_many_bytes", f"{found.st_size:,} bytes, over the limit of {most_bytes:,}")
    with open(place, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read()
