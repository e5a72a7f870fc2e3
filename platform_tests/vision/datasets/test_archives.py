"""Archives that nobody vouches for: what is unpacked, and that a refused one leaves nothing anywhere."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platform_assets.vision.datasets.archives import BadArchive, Limits, extract

FILES = {"cat/a.png": b"a" * 3000, "cat/deep/b.png": b"b", "dog/empty.png": b"", "labels.csv": b"a,b\n" * 500}
ZEROS = bytes(32 << 20)


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return file.getvalue()


def tarred(files: dict[str, bytes], **options: Any) -> bytes:
    return tar_of(*((tarfile.TarInfo(name), data) for name, data in files.items()), **options)


def tar_of(*members: tuple[tarfile.TarInfo, bytes], **options: Any) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as opened:
        for info, data in members:
            if info.isreg():
                info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return file.getvalue()


def special(kind: bytes, target: str = "") -> bytes:
    info = tarfile.TarInfo("cat/x.png")
    info.type, info.linkname = kind, target
    return tar_of((tarfile.TarInfo("cat/first.png"), b"1"), (info, b""))


def zip_entry(name: str, data: bytes = b"1", *, mode: int = 0) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("cat/first.png", b"1")
        info = zipfile.ZipInfo("placeholder")
        info.filename = name  # as given: the constructor would cut it at a NUL
        info.external_attr = mode << 16
        opened.writestr(info, data)
    return file.getvalue()


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """The archive with the field of its last header of that kind overwritten."""
    at = data.rindex(signature) + offset
    return data[:at] + value + data[at + len(value) :]


def tar_header(data: bytes, at: int, field: slice, value: bytes) -> bytes:
    """A tar with one header field overwritten and the checksum made right again."""
    header = bytearray(data[at : at + 512])
    header[field] = value.ljust(field.stop - field.start, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def overlapping_zip(copies: int = 200) -> bytes:
    """Many names in the directory for one and the same compressed megabyte."""
    data = zipped({"x": bytes(1 << 20)})
    at = data.index(b"PK\1\2")
    entry, end = data[at : data.rindex(b"PK\5\6")], data[data.rindex(b"PK\5\6") :]
    end = patched(end, b"PK\5\6", 8, struct.pack("<HHL", copies, copies, copies * len(entry)))
    return data[:at] + entry * copies + end


def unpacked(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def nothing_is_left(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """Puts bytes into an archive; at the end there must be nothing but it."""
    (tmp_path / "in").mkdir()

    def put(data: bytes) -> Path:
        (tmp_path / "in" / "set.bin").write_bytes(data)
        return tmp_path / "in" / "set.bin"

    yield put
    assert everything(tmp_path) == {"in", "in/set.bin"}


GOOD = {
    "zip": zipped(FILES),
    "zip, stored": zipped(FILES, zipfile.ZIP_STORED),
    "zip, bzip2": zipped(FILES, zipfile.ZIP_BZIP2),
    "zip, lzma": zipped(FILES, zipfile.ZIP_LZMA),
    "tar": tarred(FILES),
    "tar, pax": tarred(FILES, format=tarfile.PAX_FORMAT),
    "tar, gnu": tarred(FILES, format=tarfile.GNU_FORMAT),
    "tar.gz": gzip.compress(tarred(FILES)),
    "tar.bz2": bz2.compress(tarred(FILES)),
    "tar.xz": lzma.compress(tarred(FILES)),
    "tar, from its own folder": tarred({f"./{name}": data for name, data in FILES.items()}),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=list(GOOD))
def test_extract__every_kind_by_its_bytes(tmp_path: Path, data: bytes) -> None:
    archive = tmp_path / "no-suffix"
    archive.write_bytes(data)
    seen: list[tuple[int, int]] = []
    extract(archive, tmp_path / "new" / "set", on_progress=lambda *done: seen.append(done))
    assert unpacked(tmp_path / "new" / "set") == FILES
    assert everything(tmp_path / "new") == {f"set/{path}" for path in everything(tmp_path / "new" / "set")} | {"set"}
    assert len(seen) == len(FILES)
    assert all(0 < done <= total == len(data) for done, total in seen)
    assert seen == sorted(seen)


def test_extract__modes_and_owners_are_not_taken_over(tmp_path: Path) -> None:
    info = tarfile.TarInfo("cat/a.png")
    info.mode, info.uid = 0o6777, 12345
    (tmp_path / "a.tar").write_bytes(tar_of((info, b"1")))
    extract(tmp_path / "a.tar", tmp_path / "out")
    found = (tmp_path / "out" / "cat" / "a.png").stat()
    assert (found.st_mode & 0o7111, found.st_uid) == (0, os.getuid())


def test_extract__archives_inside_stay_files(tmp_path: Path) -> None:
    inner = zipped({"x/../../evil.png": b"1"})
    (tmp_path / "a.zip").write_bytes(zipped({"inner.zip": inner, "r.tar.gz": b"\x1f\x8b"}))
    extract(tmp_path / "a.zip", tmp_path / "out")
    assert unpacked(tmp_path / "out") == {"inner.zip": inner, "r.tar.gz": b"\x1f\x8b"}


def test_extract__empty_folders_come_out(tmp_path: Path) -> None:
    info = tarfile.TarInfo("cat")
    info.type = tarfile.DIRTYPE
    (tmp_path / "a.tar").write_bytes(tar_of((info, b""), (info, b"")))
    extract(tmp_path / "a.tar", tmp_path / "out")
    assert everything(tmp_path / "out") == {"cat"}


BAD_NAMES = {
    "../evil.png": r"`\.\.` leads out of the archive; pack again",
    "cat/../../evil.png": r"`\.\.` leads out",
    "..": r"`\.\.` leads out",
    "/evil.png": "the path is absolute; pack again with paths relative",
    "C:/evil.png": "the path is absolute",
    "C:evil.png": "the path is absolute",
    "..\\evil.png": "holds a backslash; pack again with /",
    "\\\\host\\share\\evil.png": "holds a backslash",
    "cat/ev\nil.png": "line break or another control character; rename",
    "cat/ev\x85il.png": "another control character",
    "cat/ev\u2028il.png": "a line break",
    "cat/first.png": "the name stands twice; leave one",
    "cat/./first.png": "the name stands twice",
    "cat//first.png": "the name stands twice",
    "cat/FIRST.png": r"'cat/FIRST\.png' differs from 'cat/first\.png' only in case",
    "Cat/second.png": r"'Cat' differs from 'cat' only in case or Unicode form; rename",
    "cat": "'cat' is both a file and a folder",
    "cat/first.png/x": r"'cat/first\.png' is both a file and a folder",
    ".": "the name is empty",
    f"cat/{'ä' * 128}.png": "a name of 260 bytes, 255 are the most; shorten",
    "/".join(["x" * 200] * 6): "absolute|a path of 1205 bytes, 1000 are the most",
}


def tar_entry(name: str) -> bytes:
    return tar_of((tarfile.TarInfo("cat/first.png"), b"1"), (tarfile.TarInfo(name), b"2"))


PACKED = {"tar": tar_entry, "zip": zip_entry}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize(("name", "said"), BAD_NAMES.items(), ids=[repr(name)[:24] for name in BAD_NAMES])
def test_extract__names_that_are_refused(
    nothing_is_left: Callable[[bytes], Path], kind: str, name: str, said: str
) -> None:
    archive = nothing_is_left(PACKED[kind](name))
    with pytest.raises(BadArchive, match=rf"in/set\.bin: member '.*': .*(?:{said})"):
        extract(archive, archive.parents[1] / "out")


def test_extract__unicode_forms_collide(nothing_is_left: Callable[[bytes], Path]) -> None:
    archive = nothing_is_left(tarred({"caf\u00e9.png": b"1", "cafe\u0301.png": b"2"}))
    with pytest.raises(BadArchive, match="only in case or Unicode form"):
        extract(archive, archive.parents[1] / "out")


def test_extract__zip_name_behind_a_nul(nothing_is_left: Callable[[bytes], Path]) -> None:
    archive = nothing_is_left(zip_entry("cat/x.png_evil").replace(b"x.png_evil", b"x.png\0evil"))
    with pytest.raises(BadArchive, match="holds a NUL"):
        extract(archive, archive.parents[1] / "out")


def test_extract__tar_name_that_is_not_utf8(nothing_is_left: Callable[[bytes], Path]) -> None:
    archive = nothing_is_left(tarred({"cat/\udcff.png": b"1"}, format=tarfile.GNU_FORMAT, errors="surrogateescape"))
    with pytest.raises(BadArchive, match=r"the name is not UTF-8; rename"):
        extract(archive, archive.parents[1] / "out")


def sparse() -> bytes:
    data = tarred({"cat/x.png": b"1"}, format=tarfile.GNU_FORMAT)
    return tar_header(data, 0, slice(156, 157), tarfile.GNUTYPE_SPARSE)


def sparse_map_without_end() -> bytes:
    """A map of a million entries in a file of eight bytes."""
    info = tarfile.TarInfo("cat/x.png")
    sparse = {"major": "1", "minor": "0", "name": "x", "realsize": "9"}
    info.pax_headers = {f"GNU.sparse.{key}": value for key, value in sparse.items()}
    return tar_of((info, b"1000000\n"), format=tarfile.PAX_FORMAT).rstrip(b"\0")


def cut_before_the_second_file() -> bytes:
    return tarred({"cat/a.png": b"1", "cat/b.png": b"1"})[:1024]


def long_pax_header() -> bytes:
    return tar_header(tarred({"x": bytes(4 << 20)}), 0, slice(156, 157), tarfile.XHDTYPE)


DAMAGED: dict[str, tuple[bytes, str]] = {
    "tar, symbolic link out": (special(tarfile.SYMTYPE, "/etc/passwd"), "a symbolic link; only files and folders"),
    "tar, symbolic link inside": (special(tarfile.SYMTYPE, "first.png"), "a symbolic link"),
    "tar, hard link": (special(tarfile.LNKTYPE, "../../evil"), "a hard link; .*leave it out or store the file itself"),
    "tar, fifo": (special(tarfile.FIFOTYPE), "a named pipe"),
    "tar, device": (special(tarfile.CHRTYPE), "a device"),
    "tar, block device": (special(tarfile.BLKTYPE), "a device"),
    "tar, sparse": (sparse(), "a sparse file"),
    "tar, unknown type": (special(b"Z"), "of type b'Z'|a file"),
    "zip, symbolic link": (zip_entry("cat/x.png", b"/etc/passwd", mode=0o120777), "a symbolic link; only files"),
    "zip, fifo": (zip_entry("cat/x.png", mode=0o010644), "a named pipe"),
    "zip, device": (zip_entry("cat/x.png", mode=0o020644), "a device"),
    "zip, encrypted": (patched(zipped(FILES), b"PK\1\2", 8, b"\1"), "encrypted; pack it again without a password"),
    "zip, unknown method": (patched(zipped(FILES), b"PK\1\2", 10, b"\x09"), "damaged or cut off .*compression"),
    "zip, size said too large": (
        patched(zipped({"a": b"12345"}, zipfile.ZIP_STORED), b"PK\1\2", 24, b"\xff"),
        r"member 'a': 5 bytes, its header says 255; pack it again|damaged or cut off",
    ),
    "zip, size said too small": (patched(zipped({"a": b"x" * 99}), b"PK\1\2", 24, b"\5"), "member 'a': damaged.*CRC"),
    "zip, other name before the data": (
        patched(zipped({"aa": b"1"}), b"PK\3\4", 30, b"zz"),
        "damaged or cut off .*differ",
    ),
    "zip, overlapping members": (overlapping_zip(), "member 'x': shares its bytes with 'x', as only bombs do"),
    "zip, flipped byte": (patched(zipped(FILES, zipfile.ZIP_STORED), b"aaaa", 0, b"b"), r"cat/a\.png.*damaged.*CRC"),
    "zip, cut off": (zipped(FILES)[:-40], r"set\.bin: damaged or cut off"),
    "zip, start only": (b"PK\3\4", "damaged or cut off"),
    "zip of 1:1000": (
        zipped({"zeros.png": ZEROS}),
        r"member 'zeros\.png': 1\d,.* bytes out of .*, over the ratio of 100",
    ),
    "tar.gz of 1:1000": (gzip.compress(tarred({"zeros.png": ZEROS}), 6), "over the ratio of 100; pack pictures"),
    "tar.xz of 1:7000": (lzma.compress(tarred({"zeros.png": ZEROS}), preset=0), "over the ratio"),
    "tar.gz, zeros after the end": (gzip.compress(tarred({"a": b"1"}) + ZEROS), "over the ratio"),
    "tar, cut within a file": (tarred(FILES)[:1000], "member 'cat/a.png': damaged or cut off .*end of data"),
    "tar, cut between files": (cut_before_the_second_file(), "damaged or cut off .*no tar header at byte 1,024"),
    "tar, cut within a header": (cut_before_the_second_file() + b"cat", "no tar header at byte 1,024: truncated"),
    "tar, garbled header": (tarred(FILES)[:512] + b"x" * 100_000, "damaged or cut off"),
    "tar, size below zero": (
        tar_header(tarred(FILES), 1024 + 4096, slice(124, 136), b"\xff" * 10 + b"\xe0\0"),
        "a header with a size below zero; pack it again",
    ),
    "tar, sparse map without end": (sparse_map_without_end(), "damaged or cut off"),
    "tar, size past the end": (
        tar_header(tarred({"a": b"1"}), 0, slice(124, 136), b"77777777777\0"),
        "damaged or cut off",
    ),
    "tar, header of megabytes": (long_pax_header(), "a header of 4,194,304 bytes; no name is that long"),
    "tar, long names without end": (
        tar_header(tarred({"L" * 12: b"x"}), 0, slice(156, 157), tarfile.GNUTYPE_LONGNAME)[:1024] * 3000,
        "damaged or cut off",
    ),
    "tar.gz, cut off": (gzip.compress(tarred(FILES))[:-20], "damaged or cut off"),
    "tar.gz, wrong checksum": (patched(gzip.compress(tarred(FILES)), b"", -8, b"\0\0\0\0"), "damaged.*CRC"),
    "tar.bz2, cut off": (bz2.compress(tarred(FILES))[:-9], "damaged or cut off"),
    "tar.xz, cut off": (lzma.compress(tarred(FILES))[:-40], "damaged or cut off"),
    "zstd": (b"(\xb5/\xfd" + bytes(600), r"packed with zstd; pack it as zip, tar, tar\.gz"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(600), "packed with 7z"),
    "rar": (b"Rar!\x1a\x07" + bytes(600), "packed with RAR"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(600), "damaged or cut off .*no tar header at byte 0"),
    "empty": (b"", "damaged or cut off .*no tar header at byte 0"),
}


@pytest.mark.parametrize(("data", "said"), DAMAGED.values(), ids=list(DAMAGED))
def test_extract__what_is_refused(nothing_is_left: Callable[[bytes], Path], data: bytes, said: str) -> None:
    archive = nothing_is_left(data)
    with pytest.raises(BadArchive, match=said):
        extract(archive, archive.parents[1] / "out")


LIMITED = {
    "members": (Limits(members=3), "more than 3 members; split|4 members; 3 are the most"),
    "total_bytes": (Limits(total_bytes=4000), "over 4,000 bytes in all; split the archive or raise the limit"),
    "file_bytes": (Limits(file_bytes=2500), r"member 'cat/a\.png': over 2,500 bytes; leave the file out"),
}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize(("limits", "said"), LIMITED.values(), ids=list(LIMITED))
def test_extract__limits(nothing_is_left: Callable[[bytes], Path], kind: str, limits: Limits, said: str) -> None:
    archive = nothing_is_left(GOOD[kind])
    with pytest.raises(BadArchive, match=said):
        extract(archive, archive.parents[1] / "out", limits)


def test_extract__at_the_limits(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(GOOD["zip"])
    total = sum(map(len, FILES.values()))
    extract(tmp_path / "a.zip", tmp_path / "out", Limits(members=4, total_bytes=total, file_bytes=3000))
    assert unpacked(tmp_path / "out") == FILES


def test_extract__interrupted(nothing_is_left: Callable[[bytes], Path]) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    archive = nothing_is_left(GOOD["tar.gz"])
    with pytest.raises(KeyboardInterrupt):
        extract(archive, archive.parents[1] / "out", on_progress=interrupt)


def test_extract__a_disk_that_takes_no_more_is_not_the_archives_fault(nothing_is_left: Callable[[bytes], Path]) -> None:
    archive = nothing_is_left(GOOD["zip"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            extract(archive, archive.parents[1] / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("there", ["folder", "file", "dangling link"])
def test_extract__target_that_is_there_is_not_touched(tmp_path: Path, there: str) -> None:
    (tmp_path / "a.zip").write_bytes(GOOD["zip"])
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "dangling link": lambda: out.symlink_to(tmp_path / "no")}[there]()
    before = everything(tmp_path)
    with pytest.raises(BadArchive, match="out is already there; remove it or unpack to another folder"):
        extract(tmp_path / "a.zip", out)
    assert everything(tmp_path) == before


SMALL = [zipped({"cat/a.png": b"abc", "b": b"\0" * 700}), tarred({"cat/a.png": b"abc", "b" * 120: b"\0" * 700})]


@settings(max_examples=150)
@given(data=st.data())
def test_extract__mutated_archives_are_whole_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(data.draw(st.sampled_from(SMALL)))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("mutated")
    archive = folder / "a.bin"
    archive.write_bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        extract(archive, folder / "out", Limits(total_bytes=1 << 20))
    except BadArchive:
        assert everything(folder) == {"a.bin"}
    else:
        assert (folder / "out").is_dir()
        assert {path.name for path in folder.iterdir()} == {"a.bin", "out"}
        assert not any(path.is_symlink() for path in folder.rglob("*"))


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="/\\:"), min_size=1, max_size=20
)
TREES = st.dictionaries(
    st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join),
    st.binary(max_size=50),
    max_size=6,
)


@settings(max_examples=40)
@given(files=TREES, kind=st.sampled_from(["zip", "tar"]))
def test_extract__any_names_come_out_as_they_were_or_are_refused(
    files: dict[str, bytes], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.bin").write_bytes(zipped(files) if kind == "zip" else tarred(files))
    try:
        extract(folder / "a.bin", folder / "out")
    except BadArchive as error:
        refused = str(error)
    else:
        refused = ""
    clash = "only in case or Unicode form" in refused or "both a file and a folder" in refused
    assert clash if refused else unpacked(folder / "out") == files
