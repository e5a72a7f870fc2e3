"""Unpacking a zip or tar file that nobody vouches for: whole and inside of one folder, or not at all."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import secrets
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol

from platform_assets.vision.datasets.archive_names import BadMemberName, MemberNames
from platform_assets.vision.datasets.sources import BadSource

Progress = Callable[[int, int], None]
"""Gets the bytes of the archive that are done, and all of them."""

_CHUNK_BYTES = 1 << 20
_UNMEASURED_BYTES = 16 << 20
_COMPRESSED_TARS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_OTHER_ARCHIVES = {b"(\xb5/\xfd": "zstd", b"7z\xbc\xaf": "7z", b"Rar!": "RAR", b"\x1f\x9d": "compress (.Z)"}
_ZIP_SIGNATURES = (b"PK\3\4", b"PK\5\6")
_KINDS = {
    **{tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.FIFOTYPE: "a named pipe"},
    **{tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device", tarfile.GNUTYPE_SPARSE: "a sparse file"},
}
_ZIP_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}

# What the standard library raises on damaged archives; OSError of these has no errno, one of the disk has.
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, struct.error),
    *(ValueError, KeyError, IndexError, NotImplementedError, OverflowError, RecursionError, RuntimeError, MemoryError),
)


class BadArchive(BadSource):
    """An archive that is damaged, or holds what no image set needs; names archive, member, value and cure."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Counted while unpacking, whatever the headers say.

    members: the largest public sets have about three million files, most have under one million.
    total_bytes: ImageNet is 150 GB, iNaturalist 2021 is 220 GB.
    file_bytes: far over any picture; the annotations of the largest COCO-like sets are one or two GB.
    ratio: pictures do not shrink (about 1), annotations shrink 10 to 30 times; deflate reaches 1,032. It is taken over
    the whole archive, and only after 16 MiB, which do no harm.
    """

    members: int = 3_500_000
    total_bytes: int = 300_000_000_000
    file_bytes: int = 8_000_000_000
    ratio: float = 100


IMAGE_SET_LIMITS = Limits()


def extract(
    archive: Path, into: Path, limits: Limits = IMAGE_SET_LIMITS, *, on_progress: Progress | None = None
) -> None:
    """Unpacks into a new folder that appears when it is whole; after an error or an interruption there is nothing.

    Only files and folders come out, with the user's default permissions; archives in the archive stay files.
    A killed process may leave a hidden `.{into.name}.*.unpacking` beside `into`. Raises BadArchive.
    """
    if into.exists() or into.is_symlink():
        raise BadArchive(f"{archive}: {into} is already there; remove it or unpack to another folder")
    into.parent.mkdir(parents=True, exist_ok=True)
    staging = into.with_name(f".{into.name}.{secrets.token_hex(4)}.unpacking")
    try:
        staging.mkdir()
        with archive.open("rb") as file:
            unpacking = _Unpacking(archive, staging, os.fstat(file.fileno()).st_size, limits, on_progress)
            try:
                _reader(file, unpacking)(file, unpacking)
            except BadArchive:
                raise
            except BadMemberName as error:
                unpacking.refuse(str(error))
            except _DAMAGE as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                unpacking.refuse(f"damaged or cut off ({error or type(error).__name__}); fetch or pack it again")
        staging.rename(into)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


class _Unpacking:
    """One archive on its way to the disk, and what it has cost so far."""

    def __init__(self, archive: Path, root: Path, size: int, limits: Limits, on_progress: Progress | None) -> None:
        self.archive, self.root, self.size, self.limits = archive, root, size, limits
        self.on_progress = on_progress
        self.names = MemberNames()
        self.member: str | None = None
        self.members = 0
        self.expanded = 0

    def refuse(self, problem: str) -> NoReturn:
        """`problem` says value and cure."""
        where = "" if self.member is None else f" member {self.member!r}:"
        raise BadArchive(f"{self.archive}:{where} {problem}")

    def begin(self, name: str) -> None:
        self.member, self.members = name, self.members + 1
        if self.members > self.limits.members:
            self.refuse(f"more than {self.limits.members:,} members; split the archive or raise the limit")

    def expand(self, count: int) -> None:
        """Counts bytes that came out of the archive."""
        self.expanded += count
        if self.expanded > self.limits.total_bytes:
            self.refuse(f"over {self.limits.total_bytes:,} bytes in all; split the archive or raise the limit")
        if self.expanded > max(_UNMEASURED_BYTES, self.limits.ratio * self.size):
            shown = f"{self.expanded:,} bytes out of an archive of {self.size:,}"
            self.refuse(
                f"{shown}, over the ratio of {self.limits.ratio:g}; pack pictures as they are, or raise the limit"
            )

    def folder(self, name: str) -> None:
        if path := self.names.take(name, is_folder=True):
            (self.root / path).mkdir(parents=True, exist_ok=True)

    def file(self, name: str, source: _Readable) -> int:
        """Writes one file and gives its size in bytes."""
        path = self.names.take(name, is_folder=False)
        assert path is not None
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with target.open("xb") as file:
            while chunk := source.read(_CHUNK_BYTES):
                written += len(chunk)
                if written > self.limits.file_bytes:
                    self.refuse(f"over {self.limits.file_bytes:,} bytes; leave the file out or raise the limit")
                file.write(chunk)
        return written

    def progress(self, done: int) -> None:
        self.member = None
        if self.on_progress is not None:
            self.on_progress(min(done, self.size), self.size)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Counted:
    """A stream whose bytes are counted as they come out of the archive."""

    def __init__(self, source: _Readable, unpacking: _Unpacking) -> None:
        self.source, self.unpacking = source, unpacking

    def read(self, size: int, /) -> bytes:
        data = self.source.read(size)
        self.unpacking.expand(len(data))
        return data


def _reader(file: IO[bytes], unpacking: _Unpacking) -> Callable[[IO[bytes], _Unpacking], None]:
    """By the first bytes, never by the name."""
    start = file.read(8)
    file.seek(0)
    if start.startswith(_ZIP_SIGNATURES):
        return _unzip
    for signature, name in _OTHER_ARCHIVES.items():
        if start.startswith(signature):
            unpacking.refuse(f"packed with {name}; pack it as zip, tar, tar.gz, tar.bz2 or tar.xz")
    return _untar


def _unzip(file: IO[bytes], unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(file) as opened:
        members = opened.infolist()
        if len(members) > unpacking.limits.members:
            unpacking.refuse(f"{len(members):,} members; {unpacking.limits.members:,} are the most: split the archive")
        _require_apart(members, unpacking)
        done = 0
        for info in members:
            # The name ends at a NUL in `filename`; the whole one is judged.
            unpacking.begin(info.orig_filename)
            _require_plain(info, unpacking)
            if info.is_dir():
                unpacking.folder(info.orig_filename)
            else:
                with opened.open(info) as source:
                    written = unpacking.file(info.orig_filename, _Counted(source, unpacking))
                if written != info.file_size:
                    unpacking.refuse(f"{written:,} bytes, its header says {info.file_size:,}; pack it again")
            done += info.compress_size
            unpacking.progress(done)


def _require_plain(info: zipfile.ZipInfo, unpacking: _Unpacking) -> None:
    if info.flag_bits & 0x1:
        unpacking.refuse("encrypted; pack it again without a password")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        unpacking.refuse(f"{_ZIP_KINDS.get(kind, 'a device')}; only files and folders are unpacked: leave it out")


def _require_apart(members: list[zipfile.ZipInfo], unpacking: _Unpacking) -> None:
    """No two members share bytes: so are bombs built that pass any look at one member (Fifield 2019)."""
    end, before = 0, ""
    for info in sorted(members, key=lambda info: info.header_offset):
        if info.header_offset < end:
            unpacking.member = info.orig_filename
            unpacking.refuse(f"shares its bytes with {before!r}, as only bombs do; pack the files again")
        end, before = info.header_offset + info.compress_size, info.orig_filename


def _untar(file: IO[bytes], unpacking: _Unpacking) -> None:
    start = file.read(8)
    file.seek(0)
    opener = next((opener for signature, opener in _COMPRESSED_TARS.items() if start.startswith(signature)), None)
    stream = _TarStream(opener(file) if opener else file, unpacking)
    with tarfile.TarFile(fileobj=stream, tarinfo=_StrictHeader) as opened:  # type: ignore[arg-type]
        while (member := opened.next()) is not None:
            opened.members.clear()  # type: ignore[attr-defined]  # a TarFile keeps every header
            unpacking.begin(member.name)
            if member.isdir():
                unpacking.folder(member.name)
            elif member.isreg() and not member.issparse():
                source = opened.extractfile(member)
                assert source is not None
                unpacking.file(member.name, source)
            else:
                kind = "a sparse file" if member.isreg() else _KINDS.get(member.type, f"of type {member.type!r}")
                unpacking.refuse(f"{kind}; only files and folders are unpacked: leave it out or store the file itself")
            unpacking.progress(file.tell())
        while stream.read(_CHUNK_BYTES):  # to the checksum at the end of the compressed stream
            pass


class _TarStream(_Counted):
    """A tar without its compression, read forward: what tarfile's headers ask for beyond that is refused.

    So a header of gigabytes is not read into memory, and sizes below zero, which go back in the file, make no loop.
    """

    def __init__(self, source: _Readable, unpacking: _Unpacking) -> None:
        super().__init__(source, unpacking)
        self.position = 0

    def tell(self) -> int:
        return self.position

    def read(self, size: int, /) -> bytes:
        if not 0 <= size <= _CHUNK_BYTES:
            self.unpacking.refuse(f"a header of {size:,} bytes; no name is that long: pack it again")
        data = super().read(size)
        self.position += len(data)
        return data

    def seek(self, position: int) -> int:
        if position < self.position:
            self.unpacking.refuse("a header with a size below zero; pack it again")
        while self.position < position and self.read(min(_CHUNK_BYTES, position - self.position)):
            pass
        return self.position


class _StrictHeader(tarfile.TarInfo):
    """tarfile takes a cut-off or garbled header for the end of the archive; here only the end marker is the end."""

    @classmethod
    def fromtarfile(cls, opened: tarfile.TarFile) -> _StrictHeader:
        try:
            return super().fromtarfile(opened)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(f"no tar header at byte {opened.offset:,}: {error}") from error
