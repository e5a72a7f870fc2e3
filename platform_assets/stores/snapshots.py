"""Named, immutable copies of dataset versions, kept as packs with all that is needed to train on them again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from platform_assets.stores.manifests import FileFacts
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.packs import Packs, pack
from platform_assets.vision.datasets.sources import require_inside
from platform_assets.vision.formats.copies import new_folder
from platform_assets.vision.formats.snapshot import SNAPSHOT_NAME, write_listing

if TYPE_CHECKING:
    import polars as pl

MANIFEST_NAME = "snapshot.json"
_PACKS, _ARRIVING = "packs", ".arriving"

Name = Annotated[str, Field(pattern=SNAPSHOT_NAME)]


class MissingSnapshot(ValueError):
    """No snapshot of that name."""


class SnapshotConflict(ValueError):
    """A name that is taken by other content."""


class DamagedSnapshot(ValueError):
    """A snapshot whose bytes are not those that were kept."""


class Snapshot(BaseModel):
    """What a snapshot says of itself. `source` and `split` are the dataset's YAML as it was, `version` its records'."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: Name
    name: Name
    version: str = Field(description="the data version of the records")
    created_from: str = Field(description="the data version of the source")
    source: dict[str, Any]
    split: dict[str, Any]
    licence: str | None
    label_map: LabelMap


class Kept(BaseModel):
    """The manifest file: the snapshot, and every other file with its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot: Snapshot
    files: dict[str, FileFacts]

    @field_validator("files")
    @classmethod
    def _check_names(cls, files: dict[str, FileFacts]) -> dict[str, FileFacts]:
        for name in files:
            require_inside(name)
        return files

    @classmethod
    def parsed(cls, data: bytes, place: str) -> Kept:
        """Raises DamagedSnapshot, which names the place."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            reason = " ".join([".".join(map(str, first["loc"])), first["msg"]]).strip()
            raise DamagedSnapshot(f"{place}: not a snapshot's manifest ({reason}); restore the file") from error

    def write(self, folder: Path) -> None:
        text = json.dumps(self.model_dump(), ensure_ascii=False, indent=1, sort_keys=True)
        (folder / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")


class Snapshots:
    """Snapshots under `{root}/{dataset}/{name}/`: snapshot.json and packs. Unpacked ones lie under `{cache}/snapshots`.

    Everything that trains reads `root / path`, so a snapshot is unpacked into the cache once, read-only, and read as files.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        self.cache = cache / "snapshots"

    def create(
        self,
        snapshot: Snapshot,
        records: pl.DataFrame,
        files: Path,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Path:
        """Keep the records and the images that they name below `files`. The same again is kept once.

        Raises SnapshotConflict for a name that is taken, CannotWrite where the images are not those of the records.
        """
        folder = self.folder(snapshot.dataset, snapshot.name)
        if folder.exists():
            if (there := self.get(snapshot.dataset, snapshot.name)) != snapshot:
                raise SnapshotConflict(
                    f"{_full_name(snapshot)} is kept with {difference(there, snapshot)}; snapshots never change, "
                    "choose another name"
                )
            return folder
        self._forget_unpacked(snapshot)
        with new_folder(folder) as fresh:
            pack(records, files, fresh / _PACKS, on_progress=on_progress)
            Kept(snapshot=snapshot, files=_facts(fresh)).write(fresh)
        return folder

    def folder(self, dataset: str, name: str) -> Path:
        """Where a snapshot lies, whether or not it is there."""
        return self.root / dataset / name

    def kept(self, dataset: str, name: str) -> Kept:
        """Raises MissingSnapshot, DamagedSnapshot."""
        path = self.folder(dataset, name) / MANIFEST_NAME
        try:
            return Kept.parsed(path.read_bytes(), str(path))
        except FileNotFoundError:
            known = ", ".join(self.names(dataset)) or "none"
            cure = f"`kestrel data snapshot {dataset} {name}` makes it, `kestrel data pull {dataset} --snapshot {name}`"
            raise MissingSnapshot(
                f"{dataset}/{name}: no such snapshot; there are {known}; {cure} gets it from a remote"
            ) from None

    def get(self, dataset: str, name: str) -> Snapshot:
        """Raises MissingSnapshot, DamagedSnapshot."""
        return self.kept(dataset, name).snapshot

    def is_readable(self, dataset: str, name: str) -> bool:
        """Whether it is here with a manifest that says what belongs to it."""
        try:
            self.kept(dataset, name)
        except (MissingSnapshot, DamagedSnapshot):
            return False
        return True

    def names(self, dataset: str) -> list[str]:
        return sorted(path.parent.name for path in (self.root / dataset).glob(f"*/{MANIFEST_NAME}"))

    def records(self, dataset: str, name: str) -> pl.DataFrame:
        """The records as they were, parts included. Raises MissingSnapshot, DamagedPacks."""
        self.kept(dataset, name)
        return Packs(self.folder(dataset, name) / _PACKS).records

    def verify(self, dataset: str, name: str) -> list[str]:
        """One line for each file that is missing or not as it was kept; empty when all is whole."""
        folder, problems = self.folder(dataset, name), []
        for file, facts in sorted(self.kept(dataset, name).files.items()):
            place = folder / file
            if not place.is_file():
                problems.append(f"{file}: missing")
            elif (found := FileFacts.of(place)) != facts:
                said = f"SHA-256 is {found.sha256[:12]}, {facts.sha256[:12]} was kept"
                problems.append(f"{file}: {found.bytes:,} bytes, {facts.bytes:,} were kept; {said}")
        return problems

    @contextmanager
    def arriving(self, dataset: str, name: str) -> Iterator[Path]:
        """The folder in which a snapshot from elsewhere is put together; it stays after a break. One process at a time."""
        from filelock import FileLock

        place = self.root / _ARRIVING / dataset / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{name}.lock")):
            yield place

    def take(self, kept: Kept, arriving: Path) -> None:
        """Make the files of `arriving` a snapshot by one rename, or part of the one that is here, the manifest last."""
        folder = self.folder(kept.snapshot.dataset, kept.snapshot.name)
        arriving.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            self._forget_unpacked(kept.snapshot)
            kept.write(arriving)
            folder.parent.mkdir(parents=True, exist_ok=True)
            arriving.rename(folder)
            return
        for file in kept.files:
            if (arriving / file).is_file():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (arriving / file).replace(folder / file)
        kept.write(arriving)
        (arriving / MANIFEST_NAME).replace(folder / MANIFEST_NAME)
        shutil.rmtree(arriving)

    def unpacked(self, dataset: str, name: str) -> Path:
        """The root that SnapshotSource reads, unpacked into the cache if it is not there. Raises DamagedSnapshot.

        Processes that unpack at once take turns.
        """
        from filelock import FileLock

        kept = self.kept(dataset, name).snapshot
        root = self.cache / dataset / name
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.parent / f".{name}.lock"):
            if not root.is_dir():
                self._unpack(kept, root)
        return root

    def _forget_unpacked(self, snapshot: Snapshot) -> None:
        """Of one that had this name and was removed by hand."""
        root = self.cache / snapshot.dataset / snapshot.name
        if root.exists():
            shutil.rmtree(root)

    def _unpack(self, snapshot: Snapshot, root: Path) -> None:
        if problems := self.verify(snapshot.dataset, snapshot.name):
            raise DamagedSnapshot(
                f"{_full_name(snapshot)} is damaged: {'; '.join(problems)}; "
                f"`kestrel data pull {snapshot.dataset} --snapshot {snapshot.name}` restores it from a remote"
            )
        packs = Packs(self.folder(snapshot.dataset, snapshot.name) / _PACKS)
        beside = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
        try:
            packs.unpack(beside / "files")
            write_listing(beside / "files", packs.records, snapshot.label_map.names)
            for path in (beside / "files").rglob("*"):
                if path.is_file():
                    path.chmod(0o444)
            (beside / "files").replace(root)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _facts(folder: Path) -> dict[str, FileFacts]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): FileFacts.of(path) for path in files}


def _full_name(snapshot: Snapshot) -> str:
    return f"snapshot {snapshot.dataset}/{snapshot.name}"


def difference(there: Snapshot, other: Snapshot) -> str:
    """What the one that is there says instead, field by field; nothing where they are the same."""
    fields = [name for name in Snapshot.model_fields if getattr(there, name) != getattr(other, name)]
    if "version" in fields:
        return f"version {there.version}, not {other.version}"
    return f"another {' and '.join(fields)}" if fields else ""
