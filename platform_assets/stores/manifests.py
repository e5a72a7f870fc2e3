"""What a finished run folder may be called and may hold: names, sizes and SHA-256 of its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

MANIFEST_NAME = "MANIFEST.json"
WEIGHTS_NAME = "ckpt.safetensors"

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")


class BadOutputName(ValueError):
    """A name that would leave its folder, or that the store keeps for itself."""


class IncompleteOutput(ValueError):
    """A run folder without a manifest: nobody may read it as finished."""


class DamagedOutput(ValueError):
    """A run folder whose bytes are not those its manifest lists."""


class OutputConflict(ValueError):
    """Something else already stands where a run folder should go."""


class FileFacts(BaseModel):
    """Size and SHA-256 (hex) of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        with path.open("rb") as file:
            return cls(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


class Manifest(BaseModel):
    """What a finished run folder holds: every file but the manifest itself, by POSIX name relative to the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    config_hash: str
    checkpoint_id: str
    files: dict[str, FileFacts]

    @field_validator("files")
    @classmethod
    def _check_names(cls, files: dict[str, FileFacts]) -> dict[str, FileFacts]:
        for name in files:
            _require_inside(name)
        return files

    def to_json(self) -> str:
        return json.dumps(self.model_dump(), indent=2, sort_keys=True) + "\n"

    def with_files(self, files: Mapping[str, FileFacts]) -> Manifest:
        return self.model_copy(update={"files": {**self.files, **files}})

    def without(self, names: Iterable[str]) -> Manifest:
        gone = set(names)
        return self.model_copy(update={"files": {n: f for n, f in self.files.items() if n not in gone}})


def segment(text: str) -> str:
    """One folder name of a run's place. Raises BadOutputName."""
    if not _SEGMENT.fullmatch(text):
        raise BadOutputName(f"{text!r}: a folder name here is letters, digits and . _ = + -, a letter or digit first")
    return text


def later_name(name: str) -> str:
    """The name of a file that is added after publication. Raises BadOutputName."""
    if name in (MANIFEST_NAME, WEIGHTS_NAME):
        raise BadOutputName(f"{name!r}: written once by publish; later files need another name")
    return _require_inside(name)


def _require_inside(name: str) -> str:
    inside = all(part not in ("", ".", "..") for part in name.split("/"))
    if not inside or "\\" in name or not name.isprintable() or is_private(name):
        raise BadOutputName(f"{name!r}: not a relative POSIX name inside the run folder")
    return name


def is_private(name: str) -> bool:
    """Whether an entry of a working folder stays out of the finished one."""
    return name.startswith(("_", "."))


def is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}/")


def tree_names(folder: Path) -> list[str]:
    """The files below a folder, sorted, its own manifest left out. Raises BadOutputName on a symbolic link."""
    entries = sorted(folder.rglob("*"))
    for entry in entries:
        if entry.is_symlink():
            raise BadOutputName(f"{entry}: a symbolic link; put the file itself there")
    names = [entry.relative_to(folder).as_posix() for entry in entries if entry.is_file()]
    return [name for name in names if name != MANIFEST_NAME]
