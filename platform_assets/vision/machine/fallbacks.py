"""Operators that MPS lacks and torch computes on the CPU instead: each is reported once and counted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import torch

# torch 2.15, aten/src/ATen/mps/MPSFallback.mm: "The operator 'aten::x' is not currently supported on the MPS backend and
# will fall back to run on the CPU."
_FALLBACK = re.compile(r"operator '([\w:.]+)' is not currently supported on the MPS backend and will fall back")


@contextmanager
def fallbacks_reported(report: Callable[[str], None]) -> Iterator[list[str]]:
    """Gives the operators that fell back so far, in their order; other warnings pass as they came."""
    found: list[str] = []
    shown = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        named = _FALLBACK.search(str(message))
        if named is None:
            shown(message, category, filename, lineno, file, line)
        elif named[1] not in found:
            found.append(named[1])
            report(f"MPS has no {named[1]}: it is computed on the CPU, and each use copies its tensors there and back")

    with warnings.catch_warnings(), _every_warning():
        warnings.filterwarnings("always", _FALLBACK.pattern.replace("operator", ".*operator", 1))
        warnings.showwarning = show
        yield found


@contextmanager
def _every_warning() -> Iterator[None]:
    """torch warns of the first operator of a process alone (TORCH_WARN_ONCE) unless it is told to warn always."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(before or torch.backends.mps.is_available())
    try:
        yield
    finally:
        torch.set_warn_always(before)
