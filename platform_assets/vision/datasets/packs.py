"""Many small images in few large files: tar shards with a Parquet manifest, read by offset without unpacking."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from platform_assets.vision.datasets.sources import require_inside
from platform_assets.vision.formats.copies import CannotWrite, new_folder

if TYPE_CHECKING:
    import polars as pl

MANIFEST = "manifest.parquet"
SHARD_MB = 64

_PLACE_COLUMNS = ("shard", "offset")
_HEX_BITS = 256


class DamagedPacks(ValueError):
    """A pack whose bytes are not those that were written."""


class Packs:
    """A folder that `pack` wrote. Nothing is kept open, so any number of threads may read.

    The manifest has one row a record, sorted by path: the columns of the records, then `shard` and `offset`, where the
    bytes of the image lie. Each shard is a plain tar file whose members are named by image id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def manifest(self) -> pl.DataFrame:
        """Raises DamagedPacks."""
        import polars as pl

        path = self.folder / MANIFEST
        try:
            return pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DamagedPacks(f"{path}: not a readable manifest ({error}); restore the folder") from error

    @property
    def records(self) -> pl.DataFrame:
        """The records that were packed."""
        return self.manifest.drop(_PLACE_COLUMNS)

    def read(self, image_id: str) -> bytes:
        """The bytes of one image, proven by their hash. Raises KeyError for a stranger, DamagedPacks."""
        shard, offset, size = self._places[image_id]
        try:
            with (self.folder / shard).open("rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise DamagedPacks(f"{self.folder / shard}: {error}; restore the shard") from error
        if hashlib.sha256(data).hexdigest() != image_id:
            raise DamagedPacks(
                f"{self.folder / shard}: the bytes at {offset} are not image {image_id}; restore the shard"
            )
        return data

    def verify(self) -> list[str]:
        """One line for each shard that is missing or holds a damaged image; empty when every image is whole."""
        damaged: dict[str, list[str]] = {}
        for image_id, (shard, *_) in self._places.items():
            try:
                self.read(image_id)
            except DamagedPacks:
                damaged.setdefault(shard, []).append(image_id)
        return [f"{shard}: {len(ids)} images, the first is {min(ids)}" for shard, ids in sorted(damaged.items())]

    def unpack(self, into: Path) -> None:
        """Write every image to its own path below a new folder, which appears whole or not at all."""
        with new_folder(into) as fresh:
            for path, image_id in self.manifest.select("path", "image_id").iter_rows():
                place = fresh / require_inside(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(self.read(image_id))

    @cached_property
    def _places(self) -> Mapping[str, tuple[str, int, int]]:
        rows = self.manifest.select("image_id", *_PLACE_COLUMNS, "bytes").iter_rows()
        return {image_id: (shard, offset, size) for image_id, shard, offset, size in rows}


def pack(
    records: pl.DataFrame,
    root: Path,
    folder: Path,
    *,
    shard_mb: int = SHARD_MB,
    on_progress: Callable[[int, int], None] | None = None,
) -> Packs:
    """Write the images of the records into a new folder, each once however many rows name it.

    Depends on the records and the bytes alone: the same content gives the same files. The images of a shard are those
    whose id starts with its bits, so a change of a few images changes few shards. `on_progress` gets images done and
    images in all. Raises CannotWrite.
    """
    import polars as pl

    _require_packable(records)
    ordered = records.sort("path")
    images = {
        image_id: (path, size) for path, image_id, size in ordered.select("path", "image_id", "bytes").iter_rows()
    }
    sizes = {image_id: _tar_size(size) for image_id, (_, size) in images.items()}
    with new_folder(folder) as fresh:
        places: dict[str, tuple[str, int]] = {}
        for bits, members in _shards(sorted(images), sizes, shard_mb * 1_000_000 - tarfile.RECORDSIZE):
            name = f"shard-{bits or 'all'}.tar"
            named = [(image_id, root / images[image_id][0]) for image_id in members]
            for image_id, offset in _write_shard(fresh / name, named):
                places[image_id] = (name, offset)
                if on_progress is not None:
                    on_progress(len(places), len(images))
        found = [places[image_id] for image_id in ordered["image_id"]]
        schema = {"shard": pl.String, "offset": pl.Int64}
        ordered.hstack(pl.DataFrame(found, schema=schema, orient="row")).write_parquet(fresh / MANIFEST)
    return Packs(folder)


def _require_packable(records: pl.DataFrame) -> None:
    if records.is_empty():
        raise CannotWrite("there are no records to pack; materialize the records first")
    if taken := sorted(set(_PLACE_COLUMNS).intersection(records.columns)):
        raise CannotWrite(f"columns {taken} have names that the manifest uses itself; rename them in the source")


def _tar_size(size: int) -> int:
    return tarfile.BLOCKSIZE + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _shards(
    image_ids: Sequence[str], sizes: Mapping[str, int], most_bytes: int, bits: str = ""
) -> Iterator[tuple[str, Sequence[str]]]:
    """Sorted ids, halved by their next bit until each half fits; an image that is larger has a shard of its own."""
    total = sum(sizes[image_id] for image_id in image_ids)
    if len(image_ids) == 1 or total <= most_bytes:
        if image_ids:
            yield bits, image_ids
        return
    halves: dict[str, list[str]] = {"0": [], "1": []}
    for image_id in image_ids:
        halves[f"{int(image_id, 16):0{_HEX_BITS}b}"[len(bits)]].append(image_id)
    for bit, half in halves.items():
        yield from _shards(half, sizes, most_bytes, bits + bit)


def _write_shard(shard: Path, members: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, int]]:
    """Image id and offset of its bytes, as each is written. Headers hold no time, owner or path: only ids and sizes."""
    offset = 0
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for image_id, place in members:
            data = _image_bytes(place, image_id)
            member = tarfile.TarInfo(image_id + place.suffix.lower()[:8])
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
            yield image_id, offset + tarfile.BLOCKSIZE
            offset += _tar_size(len(data))


def _image_bytes(place: Path, image_id: str) -> bytes:
    try:
        data = place.read_bytes()
    except OSError as error:
        raise CannotWrite(f"{place}: {error}; put the file back, or materialize the records again") from error
    if (found := hashlib.sha256(data).hexdigest()) != image_id:
        raise CannotWrite(
            f"{place}: its bytes give {found[:12]}, the records say {image_id[:12]}; materialize the records again"
        )
    return data
