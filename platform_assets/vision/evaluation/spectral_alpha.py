"""How heavy-tailed the spectra of the weights are, by WeightWatcher: advice, which no rule or ranking goes by."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

MIN_EIGENVALUES = 50


class SpectralUnavailable(ValueError):
    """The extra that brings WeightWatcher is not installed."""


def require_weightwatcher() -> None:
    try:
        with _silenced():
            import weightwatcher  # noqa: F401
    except ModuleNotFoundError as error:
        raise SpectralUnavailable(
            f"{error.name} is not installed; spectral_alpha needs the extra `spectral`: "
            "`uv pip install 'kestrel-vision[spectral]'`"
        ) from error


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """2026-11: weightwatcher 0.7.7 prints, and gives the root logger a handler when it is imported."""
    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def spectral_alpha(module: nn.Module) -> float | None:
    """The exponent of the power law that eigenvalues of a layer's correlation matrix are fitted with, averaged over layers.

    About 2 to 6 in well-trained layers (Martin, Peng and Mahoney 2021, doi 10.1038/s41467-021-24025-8), above in untrained
    ones. Layers with fewer than 50 eigenvalues, as depthwise convolutions, have too few for a fit; None where all have. Takes
    seconds a model. Raises SpectralUnavailable.
    """
    require_weightwatcher()
    from weightwatcher import WeightWatcher

    with _silenced():
        watcher = WeightWatcher(model=module, log_level=logging.ERROR)
        layers = watcher.analyze(min_evals=MIN_EIGENVALUES)
    found = [alpha for alpha in layers.get("alpha", ()) if alpha > 0 and math.isfinite(alpha)]
    return sum(found) / len(found) if found else None
