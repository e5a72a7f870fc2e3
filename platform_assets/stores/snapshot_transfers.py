"""Kept snapshots on their way to a remote and back: packs named by their hash, the manifest last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from platform_assets.stores.manifests import FileFacts
from platform_assets.stores.remotes import Remote
from platform_assets.stores.snapshots import (
    MANIFEST_NAME,
    DamagedSnapshot,
    Kept,
    MissingSnapshot,
    SnapshotConflict,
    Snapshots,
    difference,
)

Progress = Callable[[int, int], None]
"""Gets files done, and files in all."""

_PACKS, _SNAPSHOTS = "packs", "snapshots"


class SnapshotTransfers:
    """Below the remote's URL `packs/{sha256}` are files of any snapshot, `snapshots/{dataset}/{name}.json` manifests.

    So a file that two snapshots share is sent once, and a snapshot is there when its manifest is.
    """

    def __init__(self, snapshots: Snapshots, remote: Remote) -> None:
        self.snapshots = snapshots
        self.remote = remote

    def push(self, dataset: str, name: str, on_progress: Progress | None = None) -> int:
        """Upload what the remote lacks of a snapshot; the number of files uploaded.

        Files that are there in their full size are not sent again. Raises MissingSnapshot, DamagedSnapshot before
        anything is sent, SnapshotConflict, RemoteError.
        """
        kept = self.snapshots.kept(dataset, name)
        if problems := self.snapshots.verify(dataset, name):
            cure = f"restore it with `kestrel data pull {dataset} --snapshot {name}` from a remote that has it"
            raise DamagedSnapshot(f"snapshot {dataset}/{name} is damaged: {'; '.join(problems)}; {cure}")
        fs, root = self.remote.open()
        folder, manifest = self.snapshots.folder(dataset, name), f"{root}/{_SNAPSHOTS}/{dataset}/{name}.json"
        with self.remote.errors():
            if whole := fs.exists(manifest):
                self._require_same(kept, Kept.parsed(fs.cat_file(manifest), f"{self.remote.url}: {manifest}"))
            there = _sizes(fs, f"{root}/{_PACKS}")
            sent = 0
            for done, (file, facts) in enumerate(sorted(kept.files.items()), start=1):
                if there.get(facts.sha256) != facts.bytes:
                    _put(fs, folder / file, f"{root}/{_PACKS}/{facts.sha256}")
                    there = {**there, facts.sha256: facts.bytes}
                    sent += 1
                if on_progress is not None:
                    on_progress(done, len(kept.files))
            if not whole:
                _put(fs, folder / MANIFEST_NAME, manifest)
        return sent

    def pull(self, dataset: str, name: str, on_progress: Progress | None = None) -> int:
        """Make the snapshot here what the remote has; the number of files downloaded.

        It appears whole, every hash proven, or not at all; what came before a break is not asked for again. Damaged
        files of a snapshot that is here are replaced. Raises MissingSnapshot, DamagedSnapshot, SnapshotConflict,
        RemoteError.
        """
        fs, root = self.remote.open()
        with self.remote.errors(), self.snapshots.arriving(dataset, name) as arriving:
            kept = self._listed(fs, root, dataset, name)
            if self.snapshots.is_readable(dataset, name):
                self._require_same(self.snapshots.kept(dataset, name), kept)
            here, came = self.snapshots.folder(dataset, name), 0
            for done, (file, facts) in enumerate(sorted(kept.files.items()), start=1):
                if not _is(here / file, facts) and not _is(arriving / file, facts):
                    self._get(fs, f"{root}/{_PACKS}/{facts.sha256}", arriving / file, facts)
                    came += 1
                if on_progress is not None:
                    on_progress(done, len(kept.files))
            self.snapshots.take(kept, arriving)
        return came

    def _listed(self, fs: Any, root: str, dataset: str, name: str) -> Kept:
        place = f"{root}/{_SNAPSHOTS}/{dataset}/{name}.json"
        try:
            kept = Kept.parsed(fs.cat_file(place), f"{self.remote.url}: {place}")
        except FileNotFoundError:
            names = sorted(Path(found).stem for found in fs.glob(f"{root}/{_SNAPSHOTS}/{dataset}/*.json"))
            cure = f"`kestrel data push {dataset} --snapshot {name}` from where it is kept brings it there"
            there = ", ".join(names) or "none"
            raise MissingSnapshot(
                f"{dataset}/{name}: not on {self.remote.url}; snapshots there are {there}; {cure}"
            ) from None
        if (found := (kept.snapshot.dataset, kept.snapshot.name)) != (dataset, name):
            raise DamagedSnapshot(f"{self.remote.url}: {place}: is about {'/'.join(found)}; remove it and push again")
        return kept

    def _get(self, fs: Any, place: str, target: Path, facts: FileFacts) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        cure = "remove it there, and push the snapshot again from where it is kept"
        try:
            fs.get_file(place, str(target))
        except FileNotFoundError as error:
            raise DamagedSnapshot(f"{self.remote.url}: {place}: missing; {cure}") from error
        if (found := FileFacts.of(target)) != facts:
            target.unlink()
            said = f"{found.bytes:,} bytes with SHA-256 {found.sha256[:12]}, {facts.bytes:,} were kept"
            raise DamagedSnapshot(f"{self.remote.url}: {place}: {said}; {cure}")

    def _require_same(self, here: Kept, there: Kept) -> None:
        if here == there:
            return
        said = difference(there.snapshot, here.snapshot) or "other files"
        raise SnapshotConflict(
            f"snapshot {here.snapshot.dataset}/{here.snapshot.name}: {self.remote.url} has it with {said}; "
            "snapshots never change, keep one of the two under another name"
        )


def _is(place: Path, facts: FileFacts) -> bool:
    return place.is_file() and place.stat().st_size == facts.bytes and FileFacts.of(place) == facts


def _put(fs: Any, file: Path, place: str) -> None:
    """Whole or not at all; on an object store each upload is."""
    fs.makedirs(place.rpartition("/")[0], exist_ok=True)
    if "file" not in fs.protocol:
        fs.put_file(str(file), place)
        return
    fs.put_file(str(file), f"{place}.part")
    Path(f"{place}.part").replace(place)


def _sizes(fs: Any, folder: str) -> Mapping[str, int]:
    """By name, the sizes of the files of a folder. A file that was cut off is there with another size."""
    try:
        return {found["name"].rpartition("/")[2]: found["size"] for found in fs.ls(folder, detail=True)}
    except FileNotFoundError:
        return {}
