"""How many threads torch computes a training's steps with on a CPU: measured once a machine and network, then kept."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch.nn.functional import cross_entropy

from platform_assets.vision.machine.devices import Device, candidate_threads
from platform_assets.vision.machine.precision import Precision
from platform_assets.vision.networks.models import Classifier
from platform_assets.vision.recipes.train_options import TrainRecipe
from platform_assets.vision.training.execution import prepared

WORTH_BATCHES = 1000
# Another number of threads gives other bits: fewer than torch takes must be so much faster that noise does not choose them.
_CLEARLY = 1.3
_ROUNDS = 2
_ROUND_SECONDS = 0.2
_ROUND_BATCHES = 5
# A round that takes so long is exact enough.
_LONG_SECONDS = 4.0
# Share of the machine's cores that others may use meanwhile.
_OTHERS_MAX = 0.1


class ThreadsChoice(NamedTuple):
    threads: int
    why: str


class MeasuredThreads(BaseModel):
    """A measurement as it is kept, one JSON file each: what was measured, and images per second by threads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    facts: dict[str, str | int]
    images_per_second: dict[int, float]

    @property
    def threads(self) -> int:
        """The most that nothing is clearly faster than."""
        fastest = max(self.images_per_second.values())
        return max(threads for threads, rate in self.images_per_second.items() if rate * _CLEARLY >= fastest)

    def choice(self, others: float) -> ThreadsChoice:
        """Where others used more than a little of the cores meanwhile, torch's own number and not what is measured."""
        rates = sorted(self.images_per_second.items())
        measured = "images/s by threads " + ", ".join(f"{threads}: {rate:,.1f}" for threads, rate in rates)
        if others > _OTHERS_MAX:
            own = torch.get_num_threads()
            return ThreadsChoice(own, f"torch's own number: others used {others:.0%} of the cores ({measured})")
        return ThreadsChoice(self.threads, f"measured, {measured}")


def choose_threads(
    classifier: Classifier,
    recipe: TrainRecipe,
    batches: int,
    *,
    device: Device,
    folder: Path | None,
    say: Callable[[str], None] = lambda text: None,
) -> ThreadsChoice:
    """The number for a training of `batches` on `device`, and why; what is measured is kept in `folder`.

    torch's own number is left for trainings under WORTH_BATCHES or in several processes, without a folder, and where
    others use the machine, whose measurement is not kept.
    """
    own = torch.get_num_threads()
    if device != "cpu" or own == 1 or recipe.devices > 1 or folder is None:
        return ThreadsChoice(own, "torch's own number")
    if batches < WORTH_BATCHES:
        return ThreadsChoice(own, f"torch's own number: measuring pays from {WORTH_BATCHES:,} batches on")
    facts = _facts(classifier, recipe, own)
    path = folder / f"{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]}.json"
    if (kept := _read(path)) is not None:
        return kept.choice(others=0.0)
    say(f"measuring how many threads compute {classifier.backbone_name} fastest, once on this machine")
    measured, others = measure_threads(classifier, recipe, facts=facts)
    if others <= _OTHERS_MAX:
        _write(path, measured)
    return measured.choice(others)


def measure_threads(
    classifier: Classifier, recipe: TrainRecipe, *, facts: Mapping[str, str | int] | None = None
) -> tuple[MeasuredThreads, float]:
    """Rates of forward and backward passes from torch's number of threads downwards, and the share of cores others used.

    Fewer and fewer are tried until they are clearly slower. The best of two rounds counts. `classifier` stays as it is.
    """
    own = torch.get_num_threads()
    rates: dict[int, float] = {}
    with _pass(classifier, recipe) as take, _others_watched() as others:
        began = time.perf_counter()
        for number in range(_ROUNDS):
            if number and time.perf_counter() - began > _LONG_SECONDS:
                break
            for threads in (own, *(fewer for fewer in reversed(candidate_threads()) if fewer < own)):
                with computing_threads(threads):
                    rates[threads] = max(rates.get(threads, 0.0), _images_per_second(take))
                if rates[threads] * _CLEARLY < max(rates.values()):
                    break
    return MeasuredThreads(facts=dict(facts or {}), images_per_second=rates), others()


@contextmanager
def computing_threads(threads: int) -> Iterator[None]:
    """torch computes with as many on the CPU within."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _pass(classifier: Classifier, recipe: TrainRecipe) -> Iterator[Callable[[], int]]:
    """Forward and backward over one batch, as a function; it says how many images that were."""
    network = copy.deepcopy(classifier).cpu().train()
    batch, side_px = _batch(recipe), _side_px(classifier, recipe)
    generator = torch.Generator().manual_seed(0)
    images_bchw = torch.randint(0, 256, (batch, 3, side_px, side_px), dtype=torch.uint8, generator=generator)
    labels_b = torch.arange(batch) % classifier.num_classes
    precision = Precision(recipe, "cpu")

    def take() -> int:
        with precision.autocast():
            loss = cross_entropy(network(images_bchw), labels_b)
        torch.autograd.backward(loss)
        network.zero_grad(set_to_none=True)
        return batch

    with prepared(network, recipe):
        take()
        yield take


def _images_per_second(take: Callable[[], int]) -> float:
    """Of the fastest pass among those of one round."""
    began, fastest = time.perf_counter(), 0.0
    for _ in range(_ROUND_BATCHES):
        started = time.perf_counter()
        images = take()
        ended = time.perf_counter()
        fastest = max(fastest, images / (ended - started))
        if ended - began > _ROUND_SECONDS:
            break
    return fastest


@contextmanager
def _others_watched() -> Iterator[Callable[[], float]]:
    """A function that afterwards says what share of all cores other processes used within."""
    machine, own, started = _busy_seconds(), time.process_time(), time.perf_counter()
    share = 0.0
    yield lambda: share
    seconds = (time.perf_counter() - started) * (psutil.cpu_count() or 1)
    share = max(0.0, _busy_seconds() - machine - (time.process_time() - own)) / seconds


def _busy_seconds() -> float:
    """Of all cores since the machine began."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _batch(recipe: TrainRecipe) -> int:
    return recipe.batch_size // recipe.accumulate


def _side_px(classifier: Classifier, recipe: TrainRecipe) -> int:
    return recipe.crop_size_px or classifier.preprocessing.image_size_px


def _facts(classifier: Classifier, recipe: TrainRecipe, own: int) -> dict[str, str | int]:
    """What a measurement is valid for: the kind of machine, and what is computed."""
    return {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads_of_torch": own,
        "torch": torch.__version__,
        "backbone": classifier.backbone_name,
        "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
        "image_size_px": _side_px(classifier, recipe),
        "batch": _batch(recipe),
        "precision": recipe.precision,
    }


def _read(path: Path) -> MeasuredThreads | None:
    """None where there is none, or one that another Kestrel wrote."""
    try:
        return MeasuredThreads.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _write(path: Path, measured: MeasuredThreads) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(measured.model_dump_json(indent=2) + "\n")
    beside.replace(path)
