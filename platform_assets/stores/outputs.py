"""Finished run folders with their manifests, and the work in progress before them, on a disk or any fsspec URL."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem
from pydantic import ValidationError

from platform_assets.stores.manifests import (
    MANIFEST_NAME,
    WEIGHTS_NAME,
    BadOutputName,
    DamagedOutput,
    FileFacts,
    IncompleteOutput,
    Manifest,
    OutputConflict,
    is_private,
    is_under,
    later_name,
    segment,
    tree_names,
)


@dataclass(frozen=True)
class OutputFolder:
    """One `{run_id}/{config_hash}/{checkpoint_id}` folder. Everything it gives out is listed in its manifest.

    Adding is safe between processes of one machine (a file lock), not between machines that share a remote folder.
    """

    url: str
    fs: Any
    root: str
    staging: Path

    @property
    def is_complete(self) -> bool:
        try:
            self.manifest()
        except (IncompleteOutput, DamagedOutput):
            return False
        return True

    def manifest(self) -> Manifest:
        """The manifest as it stands now. Raises IncompleteOutput without one, DamagedOutput when it is not its own."""
        try:
            text = self.fs.cat_file(f"{self.root}/{MANIFEST_NAME}")
        except FileNotFoundError:
            cure = "no run finished it; materialize its checkpoint again"
            raise IncompleteOutput(f"{self.url}: no {MANIFEST_NAME}: {cure}") from None
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise DamagedOutput(f"{self.url}/{MANIFEST_NAME}: {error}; restore it from a backup") from error
        if [manifest.run_id, manifest.config_hash, manifest.checkpoint_id] != self.root.split("/")[-3:]:
            raise DamagedOutput(f"{self.url}/{MANIFEST_NAME}: written for another folder; move the files back")
        return manifest

    def path(self, name: str) -> Path:
        """A local path of one listed file: the file itself, or a downloaded copy whose SHA-256 was checked."""
        facts = self.manifest().files.get(name)
        if facts is None:
            raise IncompleteOutput(
                f"{self.url}: {name!r} is not in {MANIFEST_NAME}; materialize the asset that adds it"
            )
        if not _is_local(self.fs):
            return self._download(name, facts)
        path = Path(self.root, name)
        if not path.is_file():
            raise DamagedOutput(f"{self.url}: {name} is listed in {MANIFEST_NAME} but missing; restore it")
        return path

    def local_folder(self, *names: str) -> Path:
        """A local folder in which these files lie under their names, for readers that take a folder."""
        for name in names:
            self.path(name)
        return Path(self.root) if _is_local(self.fs) else self._downloads

    def add(self, name: str, source: Path | bytes) -> None:
        """Copies one later file into the finished folder, in place of an older one of that name."""
        self._replace(later_name(name), {name: source})

    def add_tree(self, name: str, source: Path) -> None:
        """Copies a folder of files into the finished folder, in place of all that lay under that name."""
        self._replace(later_name(name), {f"{name}/{inner}": source / inner for inner in tree_names(source)})

    def verify(self) -> list[str]:
        """What is wrong, one sentence each; reads every byte. Empty for a folder that is as it was written."""
        try:
            manifest = self.manifest()
        except (IncompleteOutput, DamagedOutput) as error:
            return [str(error)]
        present = self._present()
        unlisted = sorted(present - manifest.files.keys())
        problems = [self._difference(name, facts) for name, facts in sorted(manifest.files.items()) if name in present]
        return [
            *(f"{self.url}: {name} is missing" for name in sorted(manifest.files.keys() - present)),
            *(problem for problem in problems if problem),
            *(f"{self.url}: {name} is not listed in {MANIFEST_NAME}" for name in unlisted),
        ]

    def _difference(self, name: str, facts: FileFacts) -> str | None:
        with self.fs.open(f"{self.root}/{name}", "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 == facts.sha256:
            return None
        return f"{self.url}: {name} has changed: sha256 {sha256[:16]}, {MANIFEST_NAME} says {facts.sha256[:16]}"

    def _present(self, prefix: str = "") -> set[str]:
        self.fs.invalidate_cache()
        found = self.fs.find(f"{self.root}/{prefix}".rstrip("/"))
        return {path.removeprefix(f"{self.root}/") for path in found} - {MANIFEST_NAME}

    def _replace(self, name: str, sources: Mapping[str, Path | bytes]) -> None:
        # A file is never listed with bytes it does not have: what changes is unlisted first, so that a kill
        # in between leaves a file that nobody reads and that the next add replaces.
        with _staged(self.staging, sources) as staged, self.locked():
            new = {inner: FileFacts.of(path) for inner, path in staged.items()}
            manifest = self.manifest()
            stale = {n for n, f in manifest.files.items() if is_under(n, name) and new.get(n) != f}
            if stale:
                self.write_manifest(manifest.without(stale))
            for gone in self._present(name) - new.keys():
                self.fs.rm_file(f"{self.root}/{gone}")
            for inner, path in staged.items():
                self.put(path, inner)
            self.write_manifest(manifest.without(stale).with_files(new))

    def put(self, source: Path, name: str) -> None:
        """Moves a local file to its place; on a disk by one rename, so `source` must lie on the same disk."""
        if not _is_local(self.fs):
            self.fs.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
            self.fs.put_file(str(source), f"{self.root}/{name}")
            return
        target = Path(self.root, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)

    def write_manifest(self, manifest: Manifest) -> None:
        with _staged(self.staging, {MANIFEST_NAME: manifest.to_json().encode()}) as staged:
            self.put(staged[MANIFEST_NAME], MANIFEST_NAME)

    @contextmanager
    def locked(self) -> Iterator[None]:
        lock = self.staging / "_locks" / f"{hashlib.sha256(self.url.encode()).hexdigest()[:32]}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield

    @property
    def _downloads(self) -> Path:
        return self.staging.joinpath("_downloads", *self.root.split("/")[-3:])

    def _download(self, name: str, facts: FileFacts) -> Path:
        target = self._downloads / name
        if target.is_file() and FileFacts.of(target) == facts:
            return target
        with _staged(self.staging, {name: b""}) as staged:
            self.fs.get_file(f"{self.root}/{name}", str(staged[name]))
            if FileFacts.of(staged[name]) != facts:
                raise DamagedOutput(f"{self.url}: {name} does not have the bytes {MANIFEST_NAME} lists; restore it")
            target.parent.mkdir(parents=True, exist_ok=True)
            staged[name].replace(target)
        return target


class Outputs:
    """All run folders under one URL; `scratch` is the local place for work when the URL is remote."""

    def __init__(self, url: str | Path, scratch: Path) -> None:
        self.fs, root = fsspec.core.url_to_fs(str(url))
        self.root: str = root.rstrip("/")
        self.staging = (Path(self.root) if _is_local(self.fs) else scratch.absolute()) / "_working"

    def working(self, asset: str, trial: str, config_hash: str, data_version: str) -> Path:
        """The local folder in which this trial is being worked on, made if missing; whichever run comes next finds it.

        Top-level entries that start with "_" or "." (resume state, half-written files) are not published.
        """
        parts = [segment(part) for part in (*asset.split("/"), trial, config_hash, data_version)]
        folder = self.staging.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def folder(self, run_id: str, config_hash: str, checkpoint_id: str) -> OutputFolder:
        """The place of a run folder, finished or not."""
        place = "/".join([self.root, *(segment(part) for part in (run_id, config_hash, checkpoint_id))])
        url = place if _is_local(self.fs) else self.fs.unstrip_protocol(place)
        return OutputFolder(url=url, fs=self.fs, root=place, staging=self.staging)

    def at(self, url: str) -> OutputFolder:
        """The run folder that an earlier `OutputFolder.url` names. Raises BadOutputName when it lies elsewhere."""
        place = self.fs._strip_protocol(url).rstrip("/")
        ids = place.removeprefix(f"{self.root}/").split("/")
        if not place.startswith(f"{self.root}/") or len(ids) != 3:
            raise BadOutputName(f"{url}: not a run folder under {self.root}; set the outputs URL it was written to")
        return self.folder(*ids)

    def find(self, *, run_id: str = "*", checkpoint_id: str = "*") -> list[OutputFolder]:
        """The finished folders of a run or of a checkpoint, by their place."""
        run, checkpoint = (part if part == "*" else segment(part) for part in (run_id, checkpoint_id))
        found = sorted(self.fs.glob(f"{glob.escape(self.root)}/{run}/*/{checkpoint}/{MANIFEST_NAME}"))
        return [self.folder(*path.split("/")[-4:-1]) for path in found]

    def publish(self, work: Path, *, run_id: str, config_hash: str, checkpoint_id: str) -> OutputFolder:
        """Turns a working folder into a finished one: manifest, then one rename (remote: files, then the manifest).

        A complete folder with the same weights stays as it is, with what was added to it since, and `work` is dropped.
        """
        if self.staging not in work.absolute().parents:
            raise BadOutputName(f"{work}: not under {self.staging}; take the folder from Outputs.working")
        folder = self.folder(run_id, config_hash, checkpoint_id)
        files = {name: FileFacts.of(work / name) for name in tree_names(work) if not is_private(name)}
        _require_weights(str(work), files, checkpoint_id)
        manifest = Manifest(run_id=run_id, config_hash=config_hash, checkpoint_id=checkpoint_id, files=files)
        with folder.locked():
            if folder.is_complete:
                _require_weights(folder.url, folder.manifest().files, checkpoint_id)
                shutil.rmtree(work)
            elif _is_local(self.fs):
                _move_into_place(work, manifest, Path(folder.root))
            else:
                _upload(work, manifest, folder)
        return folder


def _move_into_place(work: Path, manifest: Manifest, place: Path) -> None:
    if place.exists():
        raise OutputConflict(f"{place}: exists without a valid {MANIFEST_NAME}; move it away and run again")
    (work / MANIFEST_NAME).write_text(manifest.to_json())
    place.parent.mkdir(parents=True, exist_ok=True)
    for entry in [entry for entry in work.iterdir() if is_private(entry.name)]:
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    work.rename(place)


def _upload(work: Path, manifest: Manifest, folder: OutputFolder) -> None:
    if folder.fs.exists(folder.root):  # an upload that was cut off
        folder.fs.rm(folder.root, recursive=True)
    for name in manifest.files:
        folder.put(work / name, name)
    folder.write_manifest(manifest)
    shutil.rmtree(work)


def _require_weights(where: str, files: Mapping[str, FileFacts], checkpoint_id: str) -> None:
    found = files[WEIGHTS_NAME].sha256[:16] if WEIGHTS_NAME in files else "no such file"
    if found != checkpoint_id:
        cure = "the id is the first 16 hex of the SHA-256 of the weights"
        raise OutputConflict(f"{where}: {WEIGHTS_NAME} is {found}, the checkpoint id {checkpoint_id!r}: {cure}")


@contextmanager
def _staged(staging: Path, sources: Mapping[str, Path | bytes]) -> Iterator[dict[str, Path]]:
    """Copies of the sources beside their later place, flushed to the disk; gone at the end where nobody moved them."""
    (staging / "_staged").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=staging / "_staged") as folder:
        staged = {name: Path(folder, str(index)) for index, name in enumerate(sources)}
        for name, source in sources.items():
            with staged[name].open("wb") as target:
                if isinstance(source, bytes):
                    target.write(source)
                else:
                    with source.open("rb") as original:
                        shutil.copyfileobj(original, target)
                target.flush()
                os.fsync(target.fileno())
        yield staged


def _is_local(fs: Any) -> bool:
    return isinstance(fs, LocalFileSystem)
