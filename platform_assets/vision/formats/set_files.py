"""The files of a published set that say what its images are: found below its root and read whole, or a BadSource."""

from __future__ import annotations

from pathlib import Path

from platform_assets.vision.datasets.sources import BadSource, refusal


def has_file(root: Path, file: str) -> bool:
    """Whether a regular file of that name lies in the root, and not behind a link out of it."""
    return refusal(root.resolve(), file) is None


def read_bytes(root: Path, file: str) -> bytes:
    """Raises BadSource when the file is not there, not a file, or a link out of the root."""
    if why := refusal(root.resolve(), file):
        raise BadSource(f"{file}: {why[1]}; unpack the whole set there, or correct `path` and `folder`")
    return (root / file).read_bytes()


def read_text(root: Path, file: str) -> str:
    """The text of a UTF-8 file, a byte order mark taken off. Raises BadSource, with the line of the first other byte."""
    data = read_bytes(root, file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind its mark.
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise BadSource(f"{file} line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from error
