"""Processes that take the facts of files: told paths and answering over pipes, and gone when whoever started them is."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from sys import intern
from types import TracebackType
from typing import IO, TYPE_CHECKING

import numpy as np

from platform_assets.vision.datasets.file_facts import ROW, TaskFacts, take_facts

if TYPE_CHECKING:
    from platform_assets.vision.images.decoding_ahead import DecodingAhead

_PACKAGE_PLACE = Path(__file__).parents[3]


_LAST_WORDS = 2000


class CrashedReader(RuntimeError):
    """A process that died while it read a file; the message names the file and has what the process said."""


class ReadingProcesses:
    """`count` processes, started at once. They are new programs, not copies of this one: nothing of it is loaded in them."""

    # multiprocessing is not used: its processes import the main module again, which is dagster, or a script without a
    # guard, and of one that died nobody knows which file it was at.
    def __init__(self, root: Path, max_pixels: int, count: int, ahead: DecodingAhead | None = None) -> None:
        self._notes = tempfile.TemporaryDirectory(prefix="kestrel-scan-")
        notes = [Path(self._notes.name, str(number)) for number in range(count)]
        told = [str(root.absolute()), str(max_pixels), ahead.model_dump_json() if ahead else ""]
        self._all = [_Reader(told, each) for each in notes]
        self._idle = SimpleQueue[_Reader]()
        for reader in self._all:
            self._idle.put(reader)

    def take_facts(self, paths: Iterable[str]) -> TaskFacts:
        """As file_facts.take_facts, in a process that is idle; called from as many threads as there are processes.

        Raises CrashedReader.
        """
        reader = self._idle.get()
        try:
            return reader.take_facts(list(paths))
        finally:
            self._idle.put(reader)

    def stop(self) -> None:
        """Ends the processes where they are; calls that wait for them raise CrashedReader."""
        # They hold nothing that is lost, and SIGTERM may be ignored from whoever started this process.
        for reader in self._all:
            reader.process.kill()

    def __enter__(self) -> ReadingProcesses:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        for reader in self._all:
            reader.process.communicate()
        self._notes.cleanup()


class _Reader:
    """One process, and its notes: the number of the file that it is at, and what it says on standard error."""

    def __init__(self, told: Sequence[str], notes: Path) -> None:
        notes.mkdir()
        (notes / "at").write_bytes(bytes(8))
        self._root, self._said = Path(told[0]), notes / "said"
        self._at = np.memmap(notes / "at", np.int64, "r+")
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", __name__, *told, str(notes / "at")],
                cwd=_PACKAGE_PLACE,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                # Ctrl-C is for the process that waits; it ends the others.
                start_new_session=True,
            )

    def take_facts(self, paths: Sequence[str]) -> TaskFacts:
        tasks, answers = self.process.stdin, self.process.stdout
        assert tasks is not None
        assert answers is not None
        self._at[0] = 0
        try:
            tasks.write(json.dumps(paths).encode() + b"\n")
            tasks.flush()
            return _received(answers, len(paths))
        except (EOFError, OSError) as error:
            code, said = self.process.wait(), self._said.read_text(errors="replace")[-_LAST_WORDS:].strip()
            raise CrashedReader(
                f"{self._root / paths[int(self._at[0])]}: the process that read it ended with {_named(code)}; move the "
                "file out of the source, or give the machine more memory if it ran out, and scan again"
                + (f"\n{said}" if said else "")
            ) from error


def _received(answers: IO[bytes], files: int) -> TaskFacts:
    lists, rows = answers.readline(), answers.read(files * ROW.itemsize)
    if len(rows) < files * ROW.itemsize:
        raise EOFError
    modes, formats, reasons = json.loads(lists)
    return TaskFacts(
        rows=np.frombuffer(rows, ROW),
        # There are few modes and formats: one string each, not one an image.
        modes=[mode and intern(mode) for mode in modes],
        formats=[kind and intern(kind) for kind in formats],
        reasons=[reason and (reason[0], reason[1]) for reason in reasons],
    )


def _named(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"


def main() -> None:
    """A reading process: a line of paths comes on standard input, its modes, formats, reasons and rows go to standard output."""
    import cv2

    root, max_pixels, said, mark = sys.argv[1:]
    ahead = _ahead(said) if said else None
    # What a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    cv2.setNumThreads(1)
    at = np.memmap(mark, np.int64, "r+")
    gc.freeze()  # what is loaded stays: no collection needs to look at it
    for line in sys.stdin.buffer:
        rows, *lists = take_facts(Path(root), int(max_pixels), _marked(json.loads(line), at), ahead)
        answers.write(json.dumps(lists).encode() + b"\n" + rows.tobytes())
        answers.flush()


def _ahead(said: str) -> DecodingAhead:
    from platform_assets.vision.images.decoding_ahead import DecodingAhead

    return DecodingAhead.model_validate_json(said)


def _marked(paths: Sequence[str], at: np.memmap[tuple[int], np.dtype[np.int64]]) -> Iterator[str]:
    """The paths; the file of the mark always says which of them is being read."""
    for number, path in enumerate(paths):
        at[0] = number
        yield path


if __name__ == "__main__":
    main()
