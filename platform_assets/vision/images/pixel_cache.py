"""Decoded images on disk, exactly as a model takes them: made once for all trials, seeds and processes."""

from __future__ import annotations

import hashlib
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from platform_assets.vision.recipes.preprocessing import Preprocessing

SHARD_BYTES = 64 << 20
_KEY_BYTES = 64

Load = Callable[[Sequence[int]], NDArray[np.uint8]]
"""Rows of a call to images_nchw of them."""


class PixelCache:
    """Shards under `{folder}/{pixels_id}/{content hash}.pixels`, 64 MB each, never changed once written.

    A shard is n times name and checksum (32 bytes each), then the pixels [n, 3, side, side], to be mapped: its size says n.
    It appears whole or not at all, so that any number of processes may read and write; what two wrote at once is there
    twice. All shards together take at most `max_bytes`: the least recently used go, but none for those of the same call.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def images(self, names: Sequence[str], preprocessing: Preprocessing, load: Load) -> NDArray[np.uint8]:
        """images_nchw uint8, row by row: from the shards where they have the name, else by `load`, and kept.

        `names` (SHA-256, hex) say what bytes and box the pixels are of; the preprocessing's `pixels_id` says the rest.
        `load` is given some rows at a time. What a damaged shard held is loaded again.
        """
        side, space = preprocessing.image_size_px, self._folder / preprocessing.pixels_id
        images_nchw = np.empty((len(names), 3, side, side), dtype=np.uint8)
        wanted: dict[bytes, list[int]] = {}
        for row, name in enumerate(names):
            wanted.setdefault(bytes.fromhex(name), []).append(row)
        used = {shard for shard in sorted(space.glob("*.pixels")) if _take(shard, wanted, images_nchw)}
        missing = sorted(row for rows in wanted.values() for row in rows)
        step = max(1, SHARD_BYTES // (3 * side * side))
        for start in range(0, len(missing), step):
            rows = missing[start : start + step]
            images_nchw[rows] = load(rows)
            shard = self._keep(space, [names[row] for row in rows], images_nchw[rows], used)
            used |= {shard} if shard else set()
        return images_nchw

    def add(self, names: Sequence[str], preprocessing: Preprocessing, images_nchw: NDArray[np.uint8]) -> bool:
        """Keeps pixels before anybody asked for them, if there is room: nothing goes for them. Whether they were kept."""
        size_bytes = images_nchw.nbytes + _KEY_BYTES * len(names)
        if self.used_bytes() + size_bytes > self._max_bytes:
            return False
        return self._keep(self._folder / preprocessing.pixels_id, names, images_nchw, set()) is not None

    def held(self, names: Sequence[str], preprocessing: Preprocessing) -> int:
        """How many of the names have pixels here, by the shards' lists; whether those are whole `images` looks."""
        side, space = preprocessing.image_size_px, self._folder / preprocessing.pixels_id
        found = set[bytes]()
        for shard in space.glob("*.pixels"):
            with suppress(FileNotFoundError), shard.open("rb") as file:
                count = os.fstat(file.fileno()).st_size // (_KEY_BYTES + 3 * side * side)
                listed = file.read(count * _KEY_BYTES)
                found.update(listed[start : start + 32] for start in range(0, len(listed), _KEY_BYTES))
        return len(found.intersection(map(bytes.fromhex, names)))

    def used_bytes(self) -> int:
        return sum(status.st_size for path in self._folder.glob("*/*") if (status := _status(path)))

    def _keep(self, space: Path, names: Sequence[str], images_nchw: NDArray[np.uint8], used: set[Path]) -> Path | None:
        """The new shard, or None where it would take the place of one that this call used."""
        keys = np.array([_key(name, image) for name, image in zip(names, images_nchw, strict=True)], dtype=np.uint8)
        shard = space / f"{hashlib.sha256(keys.tobytes()).hexdigest()[:32]}.pixels"
        if not self._make_room(images_nchw.nbytes + keys.nbytes, used):
            return None
        space.mkdir(parents=True, exist_ok=True)
        beside = space / f".{uuid.uuid4().hex}.tmp"
        try:
            with beside.open("wb") as file:
                file.write(keys.tobytes())
                file.write(images_nchw.tobytes())
            # Another process may have made room of a file so new only if nothing else fits: the images are not kept then.
            with suppress(FileNotFoundError):
                beside.replace(shard)
        finally:
            beside.unlink(missing_ok=True)
        return shard

    def _make_room(self, size_bytes: int, used: set[Path]) -> bool:
        found = {path: status for path in self._folder.glob("*/*") if (status := _status(path))}
        fixed = sum(status.st_size for path, status in found.items() if path in used)
        if fixed + size_bytes > self._max_bytes:
            return False
        total = sum(status.st_size for status in found.values()) + size_bytes
        for path in sorted(found.keys() - used, key=lambda path: (found[path].st_mtime_ns, path.name)):
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= found[path].st_size
        return True


def _take(shard: Path, wanted: dict[bytes, list[int]], images_nchw: NDArray[np.uint8]) -> bool:
    """Copies the wanted images of a shard and strikes them off; whether there were any. A damaged shard is deleted."""
    image_bytes = math.prod(images_nchw.shape[1:])
    try:
        with shard.open("rb") as file:
            count, rest = divmod(os.fstat(file.fileno()).st_size, _KEY_BYTES + image_bytes)
            mapped = np.memmap(file, dtype=np.uint8, mode="r") if count and not rest else None
    except FileNotFoundError:  # another process made room
        return False
    held: list[tuple[bytes, int]] = []
    whole = mapped is not None
    if mapped is not None:
        keys, pixels = mapped[: count * _KEY_BYTES].reshape(count, 2, 32), mapped[count * _KEY_BYTES :]
        held = [(name, place) for place, name in enumerate(map(bytes, keys[:, 0])) if name in wanted]
        whole = all(_copied(keys, pixels.reshape(count, *images_nchw.shape[1:]), held, wanted, images_nchw))
    if not whole:
        shard.unlink(missing_ok=True)
        return False
    for name, _ in held:
        wanted.pop(name, None)
    if held:
        with suppress(FileNotFoundError):
            os.utime(shard)
    return bool(held)


def _copied(
    keys: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    held: Sequence[tuple[bytes, int]],
    wanted: Mapping[bytes, Sequence[int]],
    images_nchw: NDArray[np.uint8],
) -> Iterator[bool]:
    """For each held image, copied to all its rows, whether it is what was written."""

    def copy(name: bytes, place: int) -> bool:
        for row in wanted[name]:
            images_nchw[row] = pixels[place]
        return bool(np.array_equal(_key(name.hex(), images_nchw[wanted[name][0]]), keys[place]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(lambda one: copy(*one), held)


def _key(name: str, image_chw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[2, 32]: the name, and the SHA-256 of name and pixels."""
    digest = hashlib.sha256(bytes.fromhex(name))
    digest.update(np.ascontiguousarray(image_chw).data)
    return np.frombuffer(bytes.fromhex(name) + digest.digest(), dtype=np.uint8).reshape(2, 32)


def _status(path: Path) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return path.stat()
    return None
