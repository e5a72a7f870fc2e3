"""The Optuna study of a search: its journal file, who may write it, its sampler, pruner and distributions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from platform_assets.vision.recipes.tuning_options import Choices, Range, Tune
from platform_assets.vision.recipes.variants import Variant

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

_MOST_SEED = 2**32


class TuningUnavailable(ValueError):
    """The extra that brings Optuna is not installed."""


class TuningBusy(ValueError):
    """Another process works on the same search."""


def require_optuna() -> None:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise TuningUnavailable(
            f"{error.name} is not installed; a search needs the extra `tuning`: `uv pip install 'kestrel-vision[tuning]'`"
        ) from error
    # What happens is told by on_trial; warnings go where the program's own go, without Optuna's handler.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()


@contextmanager
def alone(storage: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(storage / "tuning.lock", timeout=0):
            yield
    except Timeout:
        raise TuningBusy(f"{storage}: another process is at this search; wait for it, or end it") from None


def open_study(options: Tune, variant: Variant, storage: Path) -> optuna.Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = storage / "journal.log"
    _mend(journal)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=options.fingerprint(variant),
        direction="maximize",
        pruner=_pruner(options, variant),
        load_if_exists=True,
    )


def _mend(journal: Path) -> None:
    """What a killed process leaves: half a line, on which Optuna would stop for good, and a lock that it waits 30 s for."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with journal.open("r+b") as file:
                file.truncate(whole)


def _pruner(options: Tune, variant: Variant) -> BasePruner:
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    match options.pruner:
        case "median":
            return MedianPruner()
        case "hyperband":
            return HyperbandPruner(max_resource=options.most_epochs(variant))
        case "none":
            return NopPruner()


def make_sampler(options: Tune, done: int) -> BaseSampler:
    """Seeded for each trial by how many came before it: nothing depends on in which process those ran."""
    from optuna.samplers import RandomSampler, TPESampler

    digest = hashlib.sha256(f"{options.seed}/{done}".encode()).digest()
    seed = int.from_bytes(digest[:8]) % _MOST_SEED
    return TPESampler(seed=seed) if options.sampler == "tpe" else RandomSampler(seed=seed)


def _distribution(axis: Range | Choices, *, whole: bool) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Choices):
        return CategoricalDistribution(axis.choices)
    if whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def distributions(options: Tune) -> dict[str, BaseDistribution]:
    """Ends are ints where the option is whole: Tune has read them by the option's own type."""
    return {
        path: _distribution(axis, whole=isinstance(axis, Range) and isinstance(axis.low, int))
        for path, axis in options.space.items()
    }
