"""One pass over the files of a source: each image decoded once, records of the good ones, a reason for every other."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, TypeVar

import polars as pl

from platform_assets.vision.decoding import MAX_PIXELS, ImageFacts, RejectReason, UnreadableImage, inspect_image
from platform_assets.vision.label_map import LabelMap
from platform_assets.vision.sources import RECORD_COLUMNS, Candidates, rejected_frame

_FACTS_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    **{"path": pl.String, "image_id": pl.String, "bytes": pl.Int64},
    **{"width": pl.Int32, "height": pl.Int32, "mode": pl.String, "format": pl.String, "phash": pl.String},
    **{"pixel_mean": pl.Array(pl.Float32, 3), "pixel_std": pl.Array(pl.Float32, 3)},
}
_HASH_SCHEMA = {"path": pl.String, "bytes": pl.Int64, "mtime_ns": pl.Int64, "sha256": pl.String}
_CHUNK_BYTES = 1 << 20

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class EmptyDataset(ValueError):
    """A source without two classes of readable images."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """`records` has one row an accepted image, sorted by path, its `split` the official part or null.

    `rejected` has one row a file or table row that was not taken in: path, reason (RejectReason), detail.
    """

    records: pl.DataFrame
    rejected: pl.DataFrame
    label_map: LabelMap


def scan(
    candidates: Candidates,
    root: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    leaks: Literal["fail", "drop"] = "fail",
    on_progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> Scan:
    """Reads and fully decodes every listed image once; nothing is skipped, replaced or mended in silence.

    Equal bytes with the same label are one image: its first path stays. With two labels none stays. In two official
    parts both stay, for the leak check to fail on, unless `leaks` is "drop": then one stays, in test before val before
    train. `on_progress` gets (files done, files in all). Raises EmptyDataset.
    """
    facts, unreadable = _inspect_all(root, candidates, max_pixels, on_progress, threads)
    rows = candidates.rows.join(facts, on="path", how="inner", maintain_order="left")
    kept, repeated = _without_repeats(rows, leaks)
    extras = [name for name in candidates.rows.columns if name not in RECORD_COLUMNS]
    records = kept.select(*RECORD_COLUMNS, *extras)
    rejected = pl.concat([candidates.rejected, unreadable, repeated]).sort("path", "reason", "detail")
    _require_classes(records, rejected, root)
    return Scan(
        records=records, rejected=rejected, label_map=LabelMap.from_labels(records["label"], candidates.classes)
    )


def hash_files(root: Path, paths: Sequence[str], known: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row a file, sorted by path: path, bytes, mtime_ns, sha256 (hex).

    A hash from `known`, an earlier result, is used again where path, size and modification time agree.
    """
    hashed = {} if known is None else {row[:3]: row[3] for row in known.select(*_HASH_SCHEMA).iter_rows()}

    def row_of(path: str) -> tuple[str, int, int, str]:
        place = root / path
        found = place.stat()
        facts = (path, found.st_size, found.st_mtime_ns)
        return (*facts, hashed.get(facts) or _sha256(place))

    return pl.DataFrame(list(_in_threads(row_of, sorted(paths))), schema=_HASH_SCHEMA, orient="row")


def source_version(hashes: pl.DataFrame) -> str:
    """The data version of a source: SHA-256 (hex) over its sorted (path, sha256). Times and row order do not count."""
    digest = hashlib.sha256()
    for path, sha256 in sorted(hashes.select("path", "sha256").iter_rows()):
        digest.update(f"{path}\0{sha256}\n".encode())
    return digest.hexdigest()


def _sha256(place: Path) -> str:
    with place.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _in_threads(work: Callable[[_In], _Out], items: Iterable[_In], threads: int | None = None) -> Generator[_Out]:
    """Results in the order of the items. Closing it drops the waiting items; without that Ctrl-C works them all off."""
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="scan") as pool:
        yield from pool.map(work, items)


@dataclass(frozen=True, slots=True)
class _Inspected:
    image_id: str
    size_bytes: int
    facts: ImageFacts


def _inspect_all(
    root: Path,
    candidates: Candidates,
    max_pixels: int,
    on_progress: Callable[[int, int], None] | None,
    threads: int | None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Facts by path, and the files that could not be read. A path that is listed twice is read once."""
    paths = sorted(set(candidates.rows["path"]))
    good: list[tuple[object, ...]] = []
    bad: list[tuple[str, RejectReason, str]] = []
    with closing(_in_threads(lambda path: _inspect_file(root / path, max_pixels), paths, threads)) as results:
        for done, (path, found) in enumerate(zip(paths, results, strict=True), 1):
            if isinstance(found, UnreadableImage):
                bad.append((path, found.reason, found.detail))
            else:
                good.append((path, found.image_id, found.size_bytes, *astuple(found.facts)))
            if on_progress is not None:
                on_progress(done, len(paths))
    return (
        pl.DataFrame(good, schema=_FACTS_SCHEMA, orient="row"),
        rejected_frame(bad),
    )


def _inspect_file(place: Path, max_pixels: int) -> _Inspected | UnreadableImage:
    try:
        data = _read(place, most_bytes=8 * max_pixels + _CHUNK_BYTES)
        return _Inspected(hashlib.sha256(data).hexdigest(), len(data), inspect_image(data, max_pixels=max_pixels))
    except UnreadableImage as unreadable:
        return unreadable
    except FileNotFoundError:
        return UnreadableImage("missing_file", "it was there when the scan began")
    except OSError as error:
        return UnreadableImage("unreadable_file", str(error))
    except BaseException as error:
        error.add_note(f"while reading {place}")
        raise


def _read(place: Path, *, most_bytes: int) -> bytes:
    """The bytes of a regular file that is not absurdly large: no image in bounds needs over 8 bytes a pixel."""
    found = place.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImage("not_an_image", "not a regular file")
    if found.st_size > most_bytes:
        raise UnreadableImage("too_many_bytes", f"{found.st_size:,} bytes, over the limit of {most_bytes:,}")
    return place.read_bytes()


def _without_repeats(rows: pl.DataFrame, leaks: Literal["fail", "drop"]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that stay, and the rejected: equal bytes under two labels, or a second time in a part."""
    copies: dict[str, list[tuple[int, str, str, str | None]]] = defaultdict(list)
    columns = rows.select("path", "label", "split", "image_id").iter_rows()
    for index, (path, label, split, image_id) in enumerate(columns):
        copies[image_id].append((index, path, label, split))
    dropped: set[int] = set()
    rejected: list[tuple[str, RejectReason, str]] = []
    for image_id, found in copies.items():
        if len(found) > 1:
            for index, path, reason, detail in _repeats(image_id, found, leaks):
                dropped.add(index)
                rejected.append((path, reason, detail))
    kept = rows.filter(~pl.int_range(pl.len()).is_in(sorted(dropped)))
    return kept, rejected_frame(rejected)


def _repeats(
    image_id: str, copies: Sequence[tuple[int, str, str, str | None]], leaks: Literal["fail", "drop"]
) -> Iterator[tuple[int, str, RejectReason, str]]:
    """Of copies of the same bytes, sorted by path, the ones to reject."""
    labels = sorted({label for _, _, label, _ in copies})
    if len(labels) > 1:
        for index, path, _, _ in copies:
            yield index, path, "conflicting_labels", f"the same bytes ({image_id[:12]}) are labelled {labels}"
        return
    parts = {split for *_, split in copies}
    official: list[str | None] = [part for part in ("test", "val", "train") if part in parts]
    # A copy without a part adds nothing beside one that has an official part.
    wanted = set(official[:1] if leaks == "drop" else official) or {None}
    kept: dict[str | None, str] = {}
    for index, path, _, split in copies:
        if split in wanted and split not in kept:
            kept[split] = path
            continue
        first = kept.get(split) or next(other for _, other, _, part in copies if part in wanted)
        reason: RejectReason = "duplicate_path" if path == first else "duplicate_bytes"
        yield index, path, reason, f"the same bytes ({image_id[:12]}) are kept as {first}"


def _require_classes(records: pl.DataFrame, rejected: pl.DataFrame, root: Path) -> None:
    classes = sorted(set(records["label"]))
    if len(classes) > 1:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(rejected["reason"]).most_common(3))
    example = f"; first: {rejected['path'][0]}: {rejected['detail'][0]}" if len(rejected) else ""
    raise EmptyDataset(
        f"{root}: {len(records)} readable images of {len(classes)} classes {classes}, at least two are needed; "
        f"{len(rejected)} rejected ({reasons or 'the source lists nothing'}){example}"
    )
