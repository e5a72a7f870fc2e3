"""Signals that end a training: they wait for the end of an optimizer step, and SIGTERM ends as an exception."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HELD = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """SIGTERM becomes SystemExit(143) inside, unless somebody handles it already, so that the block can save what it holds.

    Signals belong to the main thread: in another one this does nothing.
    """
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def held_signals() -> Iterator[None]:
    """SIGINT and SIGTERM reach their handlers when the block is done; a second one of a kind at once.

    In another thread than the main one this does nothing.
    """
    if not _in_main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _HELD}
    came: list[signal.Signals] = []

    def hold(number: int, frame: FrameType | None) -> None:
        came.append(signal.Signals(number))
        signal.signal(number, handlers[signal.Signals(number)])

    # A handler that is None was set outside of Python: it cannot be put back, and so stays.
    ours = [number for number in _HELD if handlers[number] is not None]
    for number in ours:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, handlers[number])
    if came:
        signal.raise_signal(came[0])


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
