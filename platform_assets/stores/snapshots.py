"""Named, immutable copies of dataset versions, kept as packs with all that is needed to train on them again."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from platform_assets.stores.manifests import FileFacts
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.packs import Packs, pack
from platform_assets.vision.formats.copies import new_folder
from platform_assets.vision.formats.snapshot import SNAPSHOT_NAME, write_listing

if TYPE_CHECKING:
    import polars as pl

MANIFEST_NAME = "snapshot.json"
_PACKS = "packs"

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


class _Kept(BaseModel):
    """The manifest file: the snapshot, and every other file with its hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot: Snapshot
    files: dict[str, FileFacts]


class Snapshots:
    """Snapshots under `{root}/{dataset}/{name}/`: snapshot.json and packs. Unpacked ones lie under `{cache}/snapshots`.

    Everything that trains reads `root / path`, so a snapshot is unpacked into the cache once and read as files.
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
        folder = self._folder(snapshot.dataset, snapshot.name)
        if folder.exists():
            if (there := self.get(snapshot.dataset, snapshot.name)) != snapshot:
                raise SnapshotConflict(
                    f"{_full_name(snapshot)} is kept with {_difference(there, snapshot)}; snapshots never change, "
                    "choose another name"
                )
            return folder
        with new_folder(folder) as fresh:
            pack(records, files, fresh / _PACKS, on_progress=on_progress)
            kept = _Kept(snapshot=snapshot, files=_facts(fresh))
            text = json.dumps(kept.model_dump(), ensure_ascii=False, indent=1, sort_keys=True)
            (fresh / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
        return folder

    def get(self, dataset: str, name: str) -> Snapshot:
        """Raises MissingSnapshot, DamagedSnapshot."""
        return self._kept(dataset, name).snapshot

    def names(self, dataset: str) -> list[str]:
        return sorted(path.parent.name for path in (self.root / dataset).glob(f"*/{MANIFEST_NAME}"))

    def records(self, dataset: str, name: str) -> pl.DataFrame:
        """The records as they were, parts included. Raises MissingSnapshot, DamagedPacks."""
        self._kept(dataset, name)
        return Packs(self._folder(dataset, name) / _PACKS).records

    def verify(self, dataset: str, name: str) -> list[str]:
        """One line for each file that is missing or not as it was kept; empty when all is whole."""
        folder, problems = self._folder(dataset, name), []
        for file, facts in sorted(self._kept(dataset, name).files.items()):
            place = folder / file
            if not place.is_file():
                problems.append(f"{file}: missing")
            elif (found := FileFacts.of(place)) != facts:
                said = f"SHA-256 is {found.sha256[:12]}, {facts.sha256[:12]} was kept"
                problems.append(f"{file}: {found.bytes:,} bytes, {facts.bytes:,} were kept; {said}")
        return problems

    def unpacked(self, dataset: str, name: str) -> Path:
        """The root that SnapshotSource reads, unpacked into the cache if it is not there. Raises DamagedSnapshot.

        Processes that unpack at once take turns.
        """
        from filelock import FileLock

        kept = self._kept(dataset, name).snapshot
        root = self.cache / dataset / name
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.parent / f".{name}.lock"):
            if not root.is_dir():
                self._unpack(kept, root)
        return root

    def _unpack(self, snapshot: Snapshot, root: Path) -> None:
        if problems := self.verify(snapshot.dataset, snapshot.name):
            raise DamagedSnapshot(
                f"{_full_name(snapshot)} is damaged: {'; '.join(problems)}; restore {self.root} from a backup or a remote"
            )
        packs = Packs(self._folder(snapshot.dataset, snapshot.name) / _PACKS)
        beside = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}."))
        try:
            packs.unpack(beside / "files")
            write_listing(beside / "files", packs.records, snapshot.label_map.names)
            (beside / "files").replace(root)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _folder(self, dataset: str, name: str) -> Path:
        return self.root / dataset / name

    def _kept(self, dataset: str, name: str) -> _Kept:
        path = self._folder(dataset, name) / MANIFEST_NAME
        try:
            return _Kept.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            known = ", ".join(self.names(dataset)) or "none"
            cure = f"`kestrel data snapshot {dataset} {name}` makes it"
            raise MissingSnapshot(f"{dataset}/{name}: no such snapshot; there are {known}; {cure}") from None
        except ValidationError as error:
            first = error.errors()[0]
            reason = " ".join([".".join(map(str, first["loc"])), first["msg"]]).strip()
            raise DamagedSnapshot(f"{path}: not a snapshot's manifest ({reason}); restore the file") from error


def _facts(folder: Path) -> dict[str, FileFacts]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): FileFacts.of(path) for path in files}


def _full_name(snapshot: Snapshot) -> str:
    return f"snapshot {snapshot.dataset}/{snapshot.name}"


def _difference(there: Snapshot, other: Snapshot) -> str:
    """What the one that is there says instead, field by field."""
    fields = [name for name in Snapshot.model_fields if getattr(there, name) != getattr(other, name)]
    if "version" in fields:
        return f"version {there.version}, not {other.version}"
    return f"another {' and '.join(fields)}"
