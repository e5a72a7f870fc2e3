"""Facts of the files of one task, in compact columns: each is read, hashed and decoded once. Loads neither polars nor torch."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from platform_assets.vision.images.decoding import RejectReason, UnreadableImage
from platform_assets.vision.images.image_facts import ImageFacts, inspect_image
from platform_assets.vision.images.perceptual_hash import phashes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from platform_assets.vision.images.decoding_ahead import Decoder, DecodingAhead

NOT_READ = -1
"""The bytes of a file that could not be read: it has no hash."""
ROW: np.dtype[np.void] = np.dtype(
    [
        *[("image_id", "u1", 32), ("bytes", "i8"), ("width", "i4"), ("height", "i4")],
        *[("phash", "u1", 8), ("pixel_mean", "f4", 3), ("pixel_std", "f4", 3)],
    ]
)
_HEADER_BYTES = 1 << 20
# Without O_NONBLOCK a pipe that nobody writes to would be waited for.
OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_Reason = tuple[RejectReason, str]


class TaskFacts(NamedTuple):
    """One row a file. `reasons` has why a file has no facts (RejectReason, detail), None for an image.

    `rows`: image_id (SHA-256), bytes, width, height, phash, pixel_mean, pixel_std; zeros where there is none.
    """

    rows: NDArray[np.void]
    modes: list[str | None]
    formats: list[str | None]
    reasons: list[_Reason | None]


def take_facts(root: Path, max_pixels: int, paths: Iterable[str], ahead: DecodingAhead | None = None) -> TaskFacts:
    """The hashes of the task's pictures are taken at once. An error that is a bug names the file in a note."""
    folder, decoder = str(root), _decoder(ahead, max_pixels)
    seen = [_seen(folder, path, max_pixels, decoder) for path in paths]
    if decoder is not None:
        decoder.keep()
    rows = np.zeros(len(seen), ROW)
    rows["bytes"] = [size_bytes for _, size_bytes, _ in seen]
    digests = b"".join([digest for digest, _, _ in seen])
    rows["image_id"] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    found = [facts if isinstance(facts, ImageFacts) else None for *_, facts in seen]
    images = [facts for facts in found if facts is not None]
    if images:
        places = np.flatnonzero([facts is not None for facts in found])
        for name in ("width", "height", "pixel_mean", "pixel_std"):
            rows[name][places] = [getattr(facts, name) for facts in images]
        rows["phash"][places] = phashes(np.stack([facts.frequencies for facts in images]))
    return TaskFacts(
        rows=rows,
        modes=[facts.mode if facts else None for facts in found],
        formats=[facts.format if facts else None for facts in found],
        reasons=[None if isinstance(facts, ImageFacts) else facts for *_, facts in seen],
    )


def _decoder(ahead: DecodingAhead | None, max_pixels: int) -> Decoder | None:
    if ahead is None:
        return None
    from platform_assets.vision.images.decoding_ahead import Decoder  # only then is what it needs worth loading

    return Decoder(ahead, max_pixels)


def _seen(root: str, path: str, max_pixels: int, decoder: Decoder | None) -> tuple[bytes, int, ImageFacts | _Reason]:
    """Hash, bytes, and the facts or why there are none."""
    place = f"{root}/{path}"  # a Path takes fifty times as long to make
    digest, size_bytes = bytes(32), NOT_READ
    try:
        data = _read(place, most_bytes=8 * max_pixels + _HEADER_BYTES)
        digest, size_bytes = hashlib.sha256(data).digest(), len(data)
        facts = inspect_image(data, max_pixels=max_pixels)
        if decoder is not None:
            decoder.decode(digest, data)
        return digest, size_bytes, facts
    except UnreadableImage as unreadable:
        return digest, size_bytes, (unreadable.reason, unreadable.detail)
    except FileNotFoundError:
        return digest, NOT_READ, ("missing_file", "it was there when the scan began")
    except OSError as error:
        return digest, NOT_READ, ("unreadable_file", str(error))
    except BaseException as error:
        error.add_note(f"while reading {place}")
        raise


def _read(place: str, *, most_bytes: int) -> bytes:
    """The bytes of a regular file that is not absurdly large: no image in bounds needs over 8 bytes a pixel."""
    file = os.open(place, OPEN)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableImage("not_an_image", "not a regular file")
        if found.st_size > most_bytes:
            raise UnreadableImage("too_many_bytes", f"{found.st_size:,} bytes, over the limit of {most_bytes:,}")
        # One byte more than there are: a file that ends there is whole with one call.
        data = os.read(file, found.st_size + 1)
        if len(data) == found.st_size:
            return data
        parts = [data]
        while parts[-1]:
            parts.append(os.read(file, _HEADER_BYTES))
        return b"".join(parts)
    finally:
        os.close(file)
