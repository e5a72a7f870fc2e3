"""Signals: held until a step is done, and SIGTERM as an exception."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from platform_assets.vision.machine.interruption import held_signals, sigterm_exits


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
