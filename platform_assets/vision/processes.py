"""Functions called in Python processes of their own, one a thread; what they compute is not this module's matter."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

_Out = TypeVar("_Out")

_START = f"import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from {__name__} import serve; serve()"


class ProcessEnded(RuntimeError):
    """A process that was gone before it answered."""


class Processes:
    """While it is entered, every thread that calls gets a process, kept for its next call.

    Unlike multiprocessing it does not import the main script again, which need not be written for that. Ctrl-C reaches
    only the process that entered; the others end with it, also when it is killed: their pipe closes.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self._started:
            with process:
                process.kill()

    def call(self, function: Callable[..., _Out], *arguments: Any) -> _Out:
        """What a function of a module's top level returns, or raises, in this thread's process. Raises ProcessEnded."""
        process = self._process()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(pickle.dumps((function, arguments)))
            process.stdin.flush()
            result, error = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as broken:
            raise ProcessEnded(
                f"a process of {function.__name__} ended with code {process.wait()}; when memory ran out, free some"
            ) from broken
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def _process(self) -> subprocess.Popen[bytes]:
        if not hasattr(self._own, "process"):
            pipe = subprocess.PIPE
            process = subprocess.Popen([sys.executable, "-c", _START], stdin=pipe, stdout=pipe, start_new_session=True)
            self._started.append(process)
            self._own.process = process
            assert process.stdin is not None
            process.stdin.write(pickle.dumps(sys.path))
        own: subprocess.Popen[bytes] = self._own.process
        return own


def serve() -> None:
    """Answers the calls that come in on standard input, until it closes."""
    # What a library prints must not stand among the answers.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        while True:
            try:
                function, arguments = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            answer: tuple[Any, BaseException | None]
            try:
                answer = (function(*arguments), None)
            except BaseException as error:  # raised again where the call was made
                answer = (None, error)
            answers.write(pickle.dumps(answer))
            answers.flush()
