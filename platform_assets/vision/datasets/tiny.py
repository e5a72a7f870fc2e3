"""The tiny subset: at most two batches a part, chosen once and for all, copied with checksums, for smoke runs."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from platform_assets.vision.datasets.splits import PARTS, Part

if TYPE_CHECKING:
    import polars as pl

MANIFEST_NAME = "manifest.json"


class ChangedImage(ValueError):
    """An image that is gone, or whose bytes are not those the records were made from."""


@dataclass(frozen=True, kw_only=True)
class TinySubset:
    """Rows of the records table, and for each part the fraction of its classes that the subset shows."""

    records: pl.DataFrame
    label_coverage: dict[Part, float]


class TinyFile(BaseModel):
    """One copied image; `path` is the same below the source's root and below the subset's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    label: str
    split: Part
    bytes: int
    sha256: str


class TinyManifest(BaseModel):
    """What a copied subset holds. `checksum` is the SHA-256 (hex) over path, label, split and sha256 of all files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checksum: str
    files: tuple[TinyFile, ...]


def choose_tiny(records: pl.DataFrame, *, batch_size: int = 16, max_batches: int = 2) -> TinySubset:
    """At most `max_batches` batches of each part, classes in turn, so that every class is there where that fits.

    Classes come in order of their number in all records, most frequent first; images in order of their content hash.
    So the choice depends on neither row order nor paths, and one more image, wherever it is added, takes the place of at
    most one in each part.
    """
    import polars as pl

    frequency = Counter(records["label"])
    by_frequency = sorted(frequency, key=lambda label: (-frequency[label], label))
    chosen: set[tuple[str, str]] = set()
    coverage: dict[Part, float] = {}
    for part in PARTS:
        waiting: dict[str, list[str]] = defaultdict(list)
        rows = records.filter(pl.col("split") == part).select("label", "image_id").unique().sort("image_id")
        for label, image_id in rows.iter_rows():
            waiting[label].append(image_id)
        picked = _in_turn([waiting[label] for label in by_frequency if label in waiting], batch_size * max_batches)
        chosen.update((part, image_id) for image_id in picked)
        coverage[part] = min(1.0, len(picked) / len(waiting)) if waiting else 0.0
    keep = [(split, image_id) in chosen for split, image_id in records.select("split", "image_id").iter_rows()]
    rows = records.filter(pl.Series(keep, dtype=pl.Boolean)).sort("path")
    once = rows.unique(["split", "image_id"], keep="first", maintain_order=True)
    return TinySubset(records=once, label_coverage=coverage)


def copy_tiny(subset: TinySubset, root: Path, dest: Path) -> str:
    """Copies the images below `dest`, under their own paths, beside manifest.json; returns the manifest's checksum.

    `dest` appears whole or not at all; one with this subset stays, another is replaced. Raises ChangedImage.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.") as scratch:
        fresh = Path(scratch, "fresh")
        manifest = _write_copy(subset, root, fresh)
        if dest.exists():
            if not verify_tiny(dest) and _stored(dest) == manifest:
                return manifest.checksum
            dest.replace(Path(scratch, "replaced"))
        fresh.replace(dest)
    return manifest.checksum


def verify_tiny(dest: Path) -> list[str]:
    """What is wrong with a copied subset: files missing, changed or not listed, a manifest edited. Empty when whole.

    Any byte of any file counts, those of the manifest too.
    """
    try:
        manifest = _stored(dest)
    except FileNotFoundError:
        return [f"{dest / MANIFEST_NAME}: missing; materialize the tiny subset again"]
    except ValidationError as error:
        return [f"{dest / MANIFEST_NAME}: not a manifest: {error}"]
    problems = [f"{entry.path}: {said}" for entry in manifest.files if (said := _problem(dest, entry))]
    listed = {MANIFEST_NAME, *(entry.path for entry in manifest.files)}
    found = {path.relative_to(dest).as_posix() for path in dest.rglob("*") if not path.is_dir()}
    problems += [f"{name}: not in the manifest" for name in sorted(found - listed)]
    if manifest.checksum != _checksum(manifest.files):
        problems.append(f"{MANIFEST_NAME}: checksum {manifest.checksum[:12]} is not that of its entries")
    elif (dest / MANIFEST_NAME).read_bytes() != _as_json(manifest):
        problems.append(f"{MANIFEST_NAME}: not written as Kestrel writes it; materialize the tiny subset again")
    return problems


def _in_turn(queues: Sequence[Sequence[str]], most: int) -> list[str]:
    """The first of each queue, then the second of each, and so on."""
    picked = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    return picked[:most]


def _write_copy(subset: TinySubset, root: Path, folder: Path) -> TinyManifest:
    entries = []
    columns = subset.records.select("image_id", "path", "label", "split", "bytes").sort("path", "split")
    for image_id, path, label, split, size in columns.iter_rows():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(root / path, target, path)
        if (sha256 := _sha256(target)) != image_id:
            raise ChangedImage(
                f"{path}: its bytes give {sha256[:12]}, the records say {image_id[:12]}; materialize the records again"
            )
        entries.append(TinyFile(path=path, label=label, split=split, bytes=size, sha256=sha256))
    folder.mkdir(parents=True, exist_ok=True)
    manifest = TinyManifest(checksum=_checksum(entries), files=tuple(entries))
    (folder / MANIFEST_NAME).write_bytes(_as_json(manifest))
    return manifest


def _copy(place: Path, target: Path, path: str) -> None:
    try:
        shutil.copyfile(place, target)
    except FileNotFoundError:
        raise ChangedImage(
            f"{path}: gone since the records were made; put it back, or materialize source and records again"
        ) from None


def _as_json(manifest: TinyManifest) -> bytes:
    return (manifest.model_dump_json(indent=2) + "\n").encode()


def _stored(dest: Path) -> TinyManifest:
    return TinyManifest.model_validate_json((dest / MANIFEST_NAME).read_bytes())


def _problem(dest: Path, entry: TinyFile) -> str | None:
    pure = PurePosixPath(entry.path)
    if pure.is_absolute() or ".." in pure.parts:
        return "leaves the folder of the subset"
    place = dest / entry.path
    if not place.is_file():
        return "missing"
    if _sha256(place) != entry.sha256:
        return "its bytes have changed"
    return None if place.stat().st_size == entry.bytes else f"has not the {entry.bytes:,} bytes of the manifest"


def _checksum(entries: Sequence[TinyFile]) -> str:
    digest = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: (entry.path, entry.split)):
        digest.update(f"{entry.path}\0{entry.label}\0{entry.split}\0{entry.sha256}\n".encode())
    return digest.hexdigest()


def _sha256(place: Path) -> str:
    return hashlib.sha256(place.read_bytes()).hexdigest()
