"""A source and the facts of its files to records: the good ones, and a reason for every other. No image is opened here."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from platform_assets.vision.datasets.file_facts import OPEN
from platform_assets.vision.datasets.inspection import Known, in_threads, inspect_files
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.sources import RECORD_COLUMNS, BadSource, Candidates, KeptImages, rejected_frame
from platform_assets.vision.images.decoding import MAX_PIXELS, RejectReason

if TYPE_CHECKING:
    from platform_assets.vision.images.decoding_ahead import DecodingAhead

_CHUNK_BYTES = 1 << 16
_HASH_SCHEMA = {"path": pl.String, "bytes": pl.Int64, "mtime_ns": pl.Int64, "sha256": pl.String}


class EmptyDataset(ValueError):
    """A source without two classes of readable images."""


class ChangedImage(BadSource):
    """A file that is not the image which its source kept under that path."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """`records` has one row an accepted image, sorted by path, its `split` the official part or null.

    `rejected` has one row a file or table row that was not taken in: path, reason (RejectReason), detail. `facts` are
    for the next scan (see Known); `files_read` counts the files that were opened.
    """

    records: pl.DataFrame
    rejected: pl.DataFrame
    label_map: LabelMap
    facts: pl.DataFrame
    files_read: int


def scan(
    candidates: Candidates,
    root: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    leaks: Literal["fail", "drop"] = "fail",
    known: Known | None = None,
    ahead: DecodingAhead | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Reads and fully decodes every listed image once; nothing is skipped, replaced or mended in silence.

    Files that have not changed since `known` are not opened again; the result is the same. Equal bytes with the same
    label are one image: its first path stays. With two labels none stays. In two official parts both stay, for the leak
    check to fail on, unless `leaks` is "drop": then one stays, in test before val before train. What is opened is also
    decoded into the pixel cache of `ahead`. `on_progress` gets (files done, files in all).
    Raises EmptyDataset, ChangedImage.
    """
    paths = candidates.rows["path"]
    found = inspect_files(root, paths, max_pixels=max_pixels, known=known, ahead=ahead, on_progress=on_progress)
    if candidates.kept is not None:
        _require_kept(candidates.kept, found.files, root)
    readable = pl.col("reason").is_null()
    rows = _beside(candidates.rows, found.files).filter(readable)
    kept, repeated = _without_repeats(rows, leaks)
    extras = [name for name in candidates.rows.columns if name not in RECORD_COLUMNS]
    records = kept.select(*RECORD_COLUMNS, *extras)
    unreadable = found.files.filter(~readable).select("path", "reason", "detail")
    rejected = pl.concat([candidates.rejected, unreadable, repeated]).sort("path", "reason", "detail")
    _require_classes(records, rejected, root)
    return Scan(
        records=records,
        rejected=rejected,
        label_map=LabelMap.from_labels(records["label"], candidates.classes),
        facts=found.facts,
        files_read=found.files_read,
    )


def hash_files(root: Path, paths: Sequence[str], known: pl.DataFrame | None = None) -> pl.DataFrame:
    """One row a file, sorted by path: path, bytes, mtime_ns, sha256 (hex).

    A hash from `known`, an earlier result, is used again where path, size and modification time agree.
    """
    hashed = {} if known is None else {row[:3]: row[3] for row in known.select(*_HASH_SCHEMA).iter_rows()}
    folder = str(root)

    def row_of(path: str) -> tuple[str, int, int, str]:
        place = f"{folder}/{path}"  # a Path takes fifty times as long to make
        found = os.stat(place)  # noqa: PTH116
        facts = (path, found.st_size, found.st_mtime_ns)
        return (*facts, hashed.get(facts) or _sha256(place))

    return pl.DataFrame(list(in_threads(row_of, sorted(paths))), schema=_HASH_SCHEMA, orient="row")


def source_version(hashes: pl.DataFrame) -> str:
    """The data version of a source: SHA-256 (hex) over its sorted (path, sha256). Times and row order do not count."""
    line = pl.concat_str("path", pl.lit("\0"), "sha256", pl.lit("\n"))
    lines = hashes.sort("path", "sha256").select(line.str.join(""))
    return hashlib.sha256(lines.item().encode()).hexdigest()


def _sha256(place: str) -> str:
    file, digest = os.open(place, OPEN), hashlib.sha256()
    try:
        while chunk := os.read(file, _CHUNK_BYTES):
            digest.update(chunk)
    finally:
        os.close(file)
    return digest.hexdigest()


def _require_kept(kept: KeptImages, files: pl.DataFrame, root: Path) -> None:
    changed = [
        f"{root / path}: {f'its bytes give {found[:12]}' if found else detail}, {kept.id_of[path][:12]} was kept"
        for path, found, detail in files.select("path", "image_id", "detail").iter_rows()
        if found != kept.id_of[path]
    ]
    if changed:
        more = f", and {len(changed) - 1:,} more files" if len(changed) > 1 else ""
        raise ChangedImage(f"{changed[0]}{more}; {kept.cure}")


def _beside(rows: pl.DataFrame, files: pl.DataFrame) -> pl.DataFrame:
    """The rows with the facts of their files, of which there is one a path, sorted. A join takes twice their memory."""
    if not rows["path"].equals(files["path"]):
        files = files[rows["path"].rank("dense") - 1]
    return rows.hstack(files.drop("path"))


def _without_repeats(rows: pl.DataFrame, leaks: Literal["fail", "drop"]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows that stay, and the rejected: equal bytes under two labels, or a second time in a part."""
    copies: dict[str, list[tuple[int, str, str, str | None]]] = defaultdict(list)
    repeated = rows.with_row_index("index").filter(pl.col("image_id").is_duplicated())
    for index, path, label, split, image_id in repeated.select(
        "index", "path", "label", "split", "image_id"
    ).iter_rows():
        copies[image_id].append((index, path, label, split))
    dropped: set[int] = set()
    rejected: list[tuple[str, RejectReason, str]] = []
    for image_id, found in copies.items():
        for index, path, reason, detail in _repeats(image_id, found, leaks):
            dropped.add(index)
            rejected.append((path, reason, detail))
    kept = rows.filter(~pl.int_range(pl.len()).is_in(sorted(dropped))) if dropped else rows
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
