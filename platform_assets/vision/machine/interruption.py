"""Signals that end a training: they wait for the end of an optimizer step, none is lost, SIGTERM ends as an exception."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HELD = (signal.SIGINT, signal.SIGTERM)
_ANEW_AFTER_S = 0.05


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


@contextmanager
def interrupts_come_through() -> Iterator[None]:
    """An interrupt that Python threw away comes again, as SIGINT, until it ends what runs.

    What a signal's handler raises in a destructor or in a callback of the garbage collector is only reported, and the
    program goes on. 2026-11, dagster 1.13, SQLAlchemy 2.1: of the interrupts beside events being stored one in a hundred,
    for each event's engine leaves such a callback behind.
    """
    before, done, lost = sys.unraisablehook, threading.Event(), False
    main = threading.main_thread().ident
    assert main is not None

    def anew() -> None:
        nonlocal lost
        if not done.wait(_ANEW_AFTER_S):
            lost = False
            signal.pthread_kill(main, signal.SIGINT)  # a real one: it ends what the main thread waits in

    def hear(thrown_away: sys.UnraisableHookArgs) -> None:
        nonlocal lost
        if _in_main_thread() and not issubclass(thrown_away.exc_type, (Exception, GeneratorExit)):
            lost = True
            _thread.start_new_thread(anew, ())  # threading.Thread takes locks, which a destructor may not wait for
        else:
            before(thrown_away)

    sys.unraisablehook = hear
    try:
        yield
    finally:
        done.set()
        sys.unraisablehook = before
    if lost:
        signal.raise_signal(signal.SIGINT)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
