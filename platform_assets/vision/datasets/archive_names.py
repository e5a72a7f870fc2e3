"""Names of archive members: which may become files below a folder, on any file system, and which may not."""

from __future__ import annotations

import re
import unicodedata

LONGEST_NAME_BYTES = 255
"""One part of a path, in UTF-8: the limit of ext4, XFS, APFS and NTFS (there in UTF-16 units, which are no more)."""
LONGEST_PATH_BYTES = 1000
"""A whole path. A Mac's limit is 1,024 with the root before it; image sets stay under 200."""

_DRIVE = re.compile(r"[A-Za-z]:")


class BadMemberName(ValueError):
    """A name that would leave the folder, hide another file, or is no file name everywhere; says the cure."""


class MemberNames:
    """The names of one archive so far. Equal, or equal but for case or Unicode form, is refused, folders too.

    On a Mac or on Windows such names are one file: what a set holds must not depend on the machine that unpacks it.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, bool]] = {}
        self._parent = ""

    def take(self, name: str, *, is_folder: bool) -> str | None:
        """The relative POSIX path to write to; None for the root itself. Raises BadMemberName."""
        _require_clean(name)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts:
            if is_folder:
                return None
            raise BadMemberName("the name is empty; give the file a name")
        _require_short(parts)
        parent = "/".join(parts[:-1])
        if parent != self._parent:
            for depth in range(1, len(parts)):
                self._enter("/".join(parts[:depth]), is_folder=True)
            self._parent = parent
        path = "/".join(parts)
        self._enter(path, is_folder=is_folder)
        return path

    def _enter(self, path: str, *, is_folder: bool) -> None:
        folded = _folded(path)
        if folded not in self._seen:
            self._seen[folded] = (path, is_folder)
            return
        before, was_folder = self._seen[folded]
        if before != path:
            raise BadMemberName(f"{path!r} differs from {before!r} only in case or Unicode form; rename one of them")
        if was_folder != is_folder:
            raise BadMemberName(f"{path!r} is both a file and a folder; rename one of them")
        if not is_folder:
            raise BadMemberName("the name stands twice; leave one of the two files out")


def _require_clean(name: str) -> None:
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:
        raise BadMemberName("the name is not UTF-8; rename the file and pack again")
    if kinds & {"Cc", "Zl", "Zp"}:
        raise BadMemberName("the name holds a NUL, a line break or another control character; rename the file")
    if "\\" in name:
        raise BadMemberName("the name holds a backslash; pack again with / between folders")
    if name.startswith("/") or _DRIVE.match(name):
        raise BadMemberName("the path is absolute; pack again with paths relative to the set's folder")
    if ".." in name.split("/"):
        raise BadMemberName("`..` leads out of the archive; pack again from the set's own folder")


def _require_short(parts: list[str]) -> None:
    longest = max(len(part.encode()) for part in parts)
    if longest > LONGEST_NAME_BYTES:
        raise BadMemberName(f"a name of {longest} bytes, {LONGEST_NAME_BYTES} are the most; shorten it")
    if (length := len("/".join(parts).encode())) > LONGEST_PATH_BYTES:
        raise BadMemberName(f"a path of {length} bytes, {LONGEST_PATH_BYTES} are the most; shorten it")


def _folded(path: str) -> str:
    """Equal for names that a file system may take for one (Unicode's canonical caseless matching)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())
