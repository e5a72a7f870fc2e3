"""Signals: held until a step is done, not lost in a destructor, and SIGTERM as an exception."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from platform_assets.vision.machine.interruption import held_signals, interrupts_come_through, sigterm_exits


@pytest.fixture(autouse=True)
def _python_handlers() -> Iterator[None]:
    """As in a program of one's own: test runners and tests before this one leave theirs."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupted(times: int, done: list[str]) -> None:
    with held_signals():
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        done.append("step")


@pytest.mark.parametrize(("times", "expected"), [(1, ["step"]), (2, [])])
def test_held_signals__wait_for_the_end_of_the_block_but_for_a_second_one(times: int, expected: list[str]) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(times, done)
    assert done == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_held_signals__go_to_the_handler_that_was_there() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with held_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_held_signals__an_error_of_the_block_comes_first() -> None:
    def broken() -> None:
        with held_signals():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Swallows:
    """Python only reports what is raised in a destructor."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def __del__(self) -> None:
        if self.error is not None:
            raise self.error
        os.kill(os.getpid(), signal.SIGINT)


def wait() -> None:
    with interrupts_come_through():
        Swallows()
        time.sleep(20)


def test_interrupts_come_through__again_after_each_destructor_that_swallows_them() -> None:
    heard: list[int] = []

    def once_more(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if len(heard) == 2:
            Swallows()
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, once_more)
    before, began = sys.unraisablehook, time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        wait()
    time.sleep(0.2)
    assert (len(heard), time.monotonic() - began < 10) == (3, True)
    assert sys.unraisablehook is before


def test_interrupts_come_through__at_the_end_of_the_block_at_the_latest() -> None:
    done: list[str] = []

    def short() -> None:
        with interrupts_come_through():
            Swallows()
            done.append("block")
        done.append("more")

    with pytest.raises(KeyboardInterrupt):
        short()
    time.sleep(0.2)
    assert done == ["block"]


def test_interrupts_come_through__other_errors_of_destructors_are_reported_as_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda thrown_away: reported.append(thrown_away.exc_type))
    with interrupts_come_through():
        Swallows(ValueError("broken"))
        Swallows(GeneratorExit())
    time.sleep(0.2)
    assert reported == [ValueError, GeneratorExit]


def test_sigterm_exits__as_an_exception_with_the_usual_code() -> None:
    with pytest.raises(SystemExit) as caught, sigterm_exits():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_exits__leaves_a_handler_that_is_there() -> None:
    handler = lambda number, frame: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with sigterm_exits():
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals__other_threads_are_let_be() -> None:
    passed = []

    def work() -> None:
        with sigterm_exits(), held_signals():
            passed.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert passed == [signal.SIG_DFL]
