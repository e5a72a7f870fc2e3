"""Archives from elsewhere: fetched once, checked, unpacked once, under names that are the SHA-256 of their bytes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from filelock import FileLock

from platform_assets.stores.remotes import network_errors
from platform_assets.vision.datasets.archives import IMAGE_SET_LIMITS, Limits, extract
from platform_assets.vision.datasets.sources import BadSource, MissingSource
from platform_assets.vision.formats.archive import ArchiveSource

MAX_ARCHIVE_BYTES = 300_000_000_000
"""As many as `Limits` lets out of an archive: pictures do not shrink."""

Progress = Callable[[int, int | None], None]
"""Gets bytes done, and bytes in all where that is known."""

_CHUNK_BYTES = 1 << 20
_CONNECT_TIMEOUT_S, _SILENCE_TIMEOUT_S = 30, 60
_SUFFIX = re.compile(r"\.(?:zip|tar|tgz|tbz2?|txz|tar\.(?:gz|bz2|xz|zst))$", re.IGNORECASE)


class FetchFailed(MissingSource):
    """An archive that could not be had from its URL, or not wholly; what has come is kept and gone on with."""


class WrongArchive(BadSource):
    """An archive with other bytes than its source states, or too many of them."""


def unpacked(
    spec: ArchiveSource,
    project: Path,
    cache: Path,
    on_progress: Progress | None = None,
    *,
    limits: Limits = IMAGE_SET_LIMITS,
) -> Path:
    """The root of the source below `{cache}/unpacked/{sha256}`, fetched and unpacked if it is not there yet.

    Where it is there, neither the network nor the archive is needed. Safe between processes. Raises FetchFailed,
    MissingSource, WrongArchive, BadArchive, UnknownFormat.
    """
    sha256 = spec.sha256 or _local_sha256(_local_file(spec, project), cache)
    place = cache / "unpacked" / sha256
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f"{sha256}.lock")):
            if not place.is_dir():
                for leftover in place.parent.glob(f".{sha256}.*.unpacking"):  # of a process that was killed
                    shutil.rmtree(leftover)
                archive = _archive(spec, sha256, project, cache, on_progress)
                extract(archive, place, limits, on_progress=on_progress)
    return spec.root_in(place)


def fetch(
    url: str, sha256: str, into: Path, *, max_bytes: int = MAX_ARCHIVE_BYTES, on_progress: Progress | None = None
) -> Path:
    """The file `{into}/{sha256}{suffix of the URL}`, fetched through fsspec if it is not there yet.

    What came before a break stays as `{sha256}.part` and is gone on with where the server has ranges. Credentials and
    endpoint of S3 are those of the AWS environment variables or configuration files. Raises FetchFailed, WrongArchive.
    """
    found = _SUFFIX.search(urlsplit(url).path)
    place = into / f"{sha256}{found[0].lower() if found else ''}"
    into.mkdir(parents=True, exist_ok=True)
    with FileLock(into / f"{sha256}.lock"):
        if place.is_file():
            _require_sha256(place, sha256)
        else:
            part = into / f"{sha256}.part"
            _Download(url, sha256, place, max_bytes, on_progress).to(part)
            part.replace(place)
    return place


def _archive(spec: ArchiveSource, sha256: str, project: Path, cache: Path, on_progress: Progress | None) -> Path:
    if spec.url is not None:
        return fetch(spec.url, sha256, cache / "archives", on_progress=on_progress)
    file = _local_file(spec, project)
    if spec.sha256 is not None:
        _require_sha256(file, sha256)
    return file


def _local_file(spec: ArchiveSource, project: Path) -> Path:
    file = project / Path(spec.path or "").expanduser()
    if not file.is_file():
        raise MissingSource(f"archive {file} is not there; put the file there or correct `path`")
    return file


def _require_sha256(file: Path, sha256: str) -> None:
    if (found := _sha256(file)) != sha256:
        raise WrongArchive(
            f"{file}: SHA-256 is {found}, stated is {sha256}; put the right file there or correct `sha256`"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _local_sha256(file: Path, cache: Path) -> str:
    """The hash of a file; it is read again only when its size or its modification time has changed."""
    stat = file.stat()
    facts = [stat.st_size, stat.st_mtime_ns]
    name = hashlib.sha256(str(file.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    note = cache / "archives" / f"{name}.json"
    try:
        *known, sha256 = json.loads(note.read_text())
        if known == facts and isinstance(sha256, str):
            return sha256
    except (FileNotFoundError, ValueError, TypeError):
        pass
    sha256 = _sha256(file)
    note.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(note.with_suffix(".lock")):
        note.write_text(json.dumps([*facts, sha256]))
    return sha256


@dataclass(frozen=True)
class _Download:
    url: str
    sha256: str
    place: Path
    max_bytes: int
    on_progress: Progress | None

    def to(self, part: Path) -> None:
        """Makes `part` the whole file, its bytes checked. What is there already is its start, or else fetched again."""
        digest = hashlib.sha256()
        before = 0
        if part.is_file():
            with part.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    before += len(chunk)
            if digest.hexdigest() == self.sha256:
                return
        with self._remote(before) as remote:
            if remote.start < before:  # no ranges there, or another file
                digest, before = hashlib.sha256(), 0
            self._require_room(part, remote.size or 0)
            self._append(part, remote, digest)
        if digest.hexdigest() == self.sha256:
            return
        part.unlink()
        if not before:
            cure = "correct `sha256` after looking at what is there now; nothing was kept"
            raise WrongArchive(f"{_shown(self.url)}: SHA-256 is {digest.hexdigest()}, stated is {self.sha256}; {cure}")
        self.to(part)  # the start was of another file

    def _append(self, part: Path, remote: _Remote, digest: Any) -> None:
        done = remote.start
        with part.open("ab" if done else "wb") as file:
            while chunk := self._read(remote, done):
                done += len(chunk)
                self._require_room(part, done)
                digest.update(chunk)
                file.write(chunk)
                if self.on_progress is not None:
                    self.on_progress(done, remote.size)
        if remote.size is not None and done < remote.size:
            raise self._failed(f"broke off after {done:,} of {remote.size:,} bytes")

    def _read(self, remote: _Remote, done: int) -> bytes:
        try:
            return remote.file.read(_CHUNK_BYTES)
        except network_errors() as error:
            raise self._failed(f"broke off after {done:,} bytes: {self._reason(error)}") from error

    def _require_room(self, part: Path, size: int) -> None:
        if size > self.max_bytes:
            part.unlink(missing_ok=True)
            raise WrongArchive(
                f"{_shown(self.url)}: over {self.max_bytes:,} bytes; split the archive; nothing was kept"
            )

    @contextmanager
    def _remote(self, start: int) -> Iterator[_Remote]:
        try:
            remote = _open(self.url, start)
        except (ImportError, ValueError) as error:
            known = "http, https and s3 (extra `s3`) URLs are read, and others that fsspec has a package for"
            raise FetchFailed(f"{_shown(self.url)}: {self._reason(error)}; {known}") from error
        except network_errors() as error:
            raise self._failed(self._reason(error)) from error
        with remote.file:
            yield remote

    def _reason(self, error: BaseException) -> str:
        """Without the query and password that the URL may hold."""
        status = getattr(error, "status", None)
        said = f"{status} {getattr(error, 'message', '')}" if status else str(error) or type(error).__name__
        return said.replace(self.url, _shown(self.url))

    def _failed(self, reason: str) -> FetchFailed:
        cure = f"run again when the network is there, or put the file (SHA-256 {self.sha256}) by hand at {self.place}"
        return FetchFailed(f"{_shown(self.url)}: not fetched: {reason}; {cure}")


@dataclass(frozen=True)
class _Remote:
    """An opened file elsewhere, the position that it is read from, and its size where the server says it."""

    file: IO[bytes]
    start: int
    size: int | None


def _open(url: str, start: int) -> _Remote:
    import fsspec

    if urlsplit(url).scheme in ("http", "https"):
        return _open_http(url, start)
    fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    file = fs.open(path, "rb", cache_type="readahead")
    size = int(file.size)
    start = start if start < size else 0
    file.seek(start)
    return _Remote(file, start, size)


def _open_http(url: str, start: int) -> _Remote:
    """One GET for all of it. fsspec's seekable file would ask for every block anew, and its clients end after 5 minutes."""
    import aiohttp
    import fsspec

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_TIMEOUT_S)
    fs, path = fsspec.core.url_to_fs(url, client_kwargs={"timeout": timeout, "trust_env": True})
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        file = fs.open(path, "rb", block_size=0, size=1, headers=headers)
    except aiohttp.ClientResponseError as error:
        if error.status != 416 or not start:  # 416: there is nothing so far behind
            raise
        return _open_http(url, 0)
    reply = file.r
    start = start if reply.status == 206 else 0
    length = reply.headers.get("Content-Length")
    return _Remote(file, start, None if length is None else start + int(length))


def _shown(url: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
