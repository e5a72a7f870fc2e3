"""Facts of image files by content: a file is read, hashed and decoded once, and never again while its facts are known."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import polars as pl

from platform_assets.vision.datasets.file_facts import NOT_READ, TaskFacts, take_facts
from platform_assets.vision.datasets.reading_processes import ReadingProcesses
from platform_assets.vision.images.decoding import MAX_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from platform_assets.vision.images.decoding_ahead import DecodingAhead

_IMAGE_SCHEMA: dict[str, Any] = {
    **{"width": pl.Int32, "height": pl.Int32, "mode": pl.String, "format": pl.String, "phash": pl.String},
    **{"pixel_mean": pl.Array(pl.Float32, 3), "pixel_std": pl.Array(pl.Float32, 3)},
}
_CONTENT_SCHEMA = {"bytes": pl.Int64, "reason": pl.String, "detail": pl.String, **_IMAGE_SCHEMA}
_FILE_SCHEMA = {"path": pl.String, "image_id": pl.String, **_CONTENT_SCHEMA}
FACTS_SCHEMA = {"image_id": pl.String, "made_by": pl.String, **_CONTENT_SCHEMA}

_FILES_PER_TASK = 16
_FILES_PER_PROCESS_TASK = 128
_FILES_PER_PACK = 8192
# A process takes 0.2 s of CPU to start, and a small file 0.1 ms: each shall have something to do, and fewer files are read
# in threads. Those hold each other up where there are many.
_PROCESSES_FROM = 8192
_FILES_PER_PROCESS = 4096

_In = TypeVar("_In")
_Out = TypeVar("_Out")


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
    ahead: DecodingAhead | None = None,
    threads: int | None = None,
) -> Inspection:
    """Every path once. One whose size and time are those of its known hash is not opened when that hash has facts.

    What is opened is also decoded into the pixel cache of `ahead`.

    Few files are read in `threads` of this process, many in as many others. `on_progress` gets (files done, files in all)
    in the caller's thread. Raises CrashedReader when a process dies over a file.
    """
    ordered = _once_each(pl.Series("path", paths if isinstance(paths, pl.Series) else list(paths), pl.String).sort())
    made_by = f"{known.code if known else ''}/{max_pixels}"
    held = _held(root, ordered, known, made_by)
    unread = ordered.filter(~ordered.is_in(held["path"].implode())) if held.height else ordered
    if on_progress is not None and held.height:
        on_progress(held.height, len(ordered))
    tasks = _tasks(root, unread, max_pixels, ahead, threads)
    with closing(_counted(tasks, held.height, len(ordered), on_progress)) as counted:
        packs = deque(_packs(counted))
    # In one piece: a gather from many takes six times the memory.
    files = pl.concat([held, *_frames(unread, packs)], rechunk=True)
    files = files.sort("path") if held.height else files
    return Inspection(files=files, facts=_by_content(files, made_by), files_read=len(unread))


def _by_content(files: pl.DataFrame, made_by: str) -> pl.DataFrame:
    # By places in a sorted column: `unique` and `sort` of the frame take three times the memory.
    places = files.select(place=pl.col("image_id").arg_sort())["place"]
    image_ids = files["image_id"].gather(places)
    first = places.filter(image_ids.is_not_null() & image_ids.ne_missing(image_ids.shift()))
    return files[first].with_columns(made_by=pl.lit(made_by)).select(*FACTS_SCHEMA)


def _once_each(ordered: pl.Series) -> pl.Series:
    return ordered.filter(ordered.ne_missing(ordered.shift()))


def in_threads(work: Callable[[_In], _Out], items: Iterable[_In], threads: int | None = None) -> Generator[_Out]:
    """Results in the order of the items, a few tasks ahead of the one taken, so that memory does not grow with them.

    Closing it drops what waits; without that Ctrl-C works all of it off.
    """
    with closing(_in_threads(lambda task: [work(item) for item in task], items, threads)) as tasks:
        for results in tasks:
            yield from results


def _in_threads(
    work: Callable[[Iterator[_In]], _Out],
    items: Iterable[_In],
    threads: int | None,
    *,
    per_task: int = _FILES_PER_TASK,
    stop: Callable[[], None] | None = None,
) -> Generator[_Out]:
    """As in_threads, for work that is given the items of a task: they end early when it is closed, after a call of `stop`."""
    threads, stopped, items = threads or os.cpu_count() or 1, Event(), iter(items)
    waiting: deque[Future[_Out]] = deque()

    def work_off(task: Sequence[_In]) -> _Out:
        return work(item for item in task if not stopped.is_set())

    pool = ThreadPoolExecutor(threads, thread_name_prefix="scan")
    try:
        while True:
            while len(waiting) < 4 * threads and (task := list(islice(items, per_task))):
                waiting.append(pool.submit(work_off, task))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        stopped.set()
        if stop is not None:
            stop()
        pool.shutdown(cancel_futures=True)


def _tasks(
    root: Path, paths: pl.Series, max_pixels: int, ahead: DecodingAhead | None, threads: int | None
) -> Generator[TaskFacts]:
    """The facts of all paths in their order, by threads of this process or, where that pays, by other processes."""
    threads = threads or os.cpu_count() or 1
    if len(paths) < _PROCESSES_FROM or threads == 1:
        per_task = _FILES_PER_PROCESS_TASK if ahead else _FILES_PER_TASK  # a shard of the cache a task
        take = partial(take_facts, root, max_pixels, ahead=ahead)
        yield from _in_threads(take, paths, threads, per_task=per_task)
        return
    threads = min(threads, -(-len(paths) // _FILES_PER_PROCESS))
    with ReadingProcesses(root, max_pixels, threads, ahead) as processes:
        per_task, stop = _FILES_PER_PROCESS_TASK, processes.stop
        with closing(_in_threads(processes.take_facts, paths, threads, per_task=per_task, stop=stop)) as tasks:
            yield from tasks


def _held(root: Path, paths: pl.Series, known: Known | None, made_by: str) -> pl.DataFrame:
    """The rows of the paths that need no reading."""
    if known is None or known.facts is None:
        return pl.DataFrame(schema=_FILE_SCHEMA)
    facts = known.facts.filter(pl.col("made_by") == made_by).drop("made_by")
    listed = known.hashes.rename({"sha256": "image_id"}).join(facts.select("image_id"), on="image_id", how="semi")
    listed = listed.join(paths.to_frame(), on="path", how="semi")
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
    tasks: Generator[TaskFacts], already: int, total: int, on_progress: Callable[[int, int], None] | None
) -> Generator[TaskFacts]:
    with closing(tasks):
        done = already
        for task in tasks:
            for _ in task.reasons:
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
            yield task


def _packs(tasks: Iterable[TaskFacts]) -> Iterator[TaskFacts]:
    """The facts of many tasks as if they were of one."""
    waiting, files = list[TaskFacts](), 0
    for task in tasks:
        waiting.append(task)
        files += len(task.rows)
        if files >= _FILES_PER_PACK:
            yield _pack(waiting)
            waiting, files = [], 0
    if waiting:
        yield _pack(waiting)


def _pack(tasks: Sequence[TaskFacts]) -> TaskFacts:
    rows, modes, formats, reasons = zip(*tasks, strict=True)
    return TaskFacts(np.concatenate(rows), *(list(chain.from_iterable(each)) for each in (modes, formats, reasons)))


def _frames(paths: pl.Series, packs: deque[TaskFacts]) -> Iterator[pl.DataFrame]:
    """Frames of _FILE_SCHEMA, which hold two and a half times as much as the packs; those are given up one by one."""
    first = 0
    while packs:
        pack = packs.popleft()
        yield _frame(paths.slice(first, len(pack.rows)), pack)
        first += len(pack.rows)


def _frame(paths: pl.Series, pack: TaskFacts) -> pl.DataFrame:
    rows, reasons = pack.rows, [reason or (None, None) for reason in pack.reasons]
    columns: dict[str, Any] = {
        "path": paths,
        "image_id": _hex(rows["image_id"]),
        "bytes": rows["bytes"],
        "reason": [reason for reason, _ in reasons],
        "detail": [detail for _, detail in reasons],
        "mode": pack.modes,
        "format": pack.formats,
        "phash": _hex(rows["phash"]),
        **{name: np.ascontiguousarray(rows[name]) for name in ("width", "height", "pixel_mean", "pixel_std")},
    }
    frame = pl.DataFrame([pl.Series(name, columns[name], kind) for name, kind in _FILE_SCHEMA.items()])
    was_read, is_image = pl.col("bytes") != NOT_READ, pl.col("reason").is_null()
    return frame.with_columns(
        pl.when(was_read).then(pl.col("image_id", "bytes")), pl.when(is_image).then(pl.col(*_IMAGE_SCHEMA))
    )


def _hex(bytes_nd: NDArray[np.uint8]) -> list[str]:
    text, digits = bytes_nd.tobytes().hex(), 2 * bytes_nd.shape[1]
    return [text[start : start + digits] for start in range(0, len(text), digits)]
