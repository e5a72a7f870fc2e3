"""A training that is ended at any step, by whatever means, goes on to the very weights of one that was not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from platform_assets.vision.networks.weights import weights_sha256
from platform_assets.vision.training.batches import LabelledImages
from platform_assets.vision.training.job import TrainingStopped
from platform_assets.vision.training.state import STATE_FILE, EpochRow, Progress
from platform_assets.vision.training.train import TrainResult
from platform_tests.vision.shapes import coloured_shapes
from platform_tests.vision.trainings import (
    MODES,
    RECIPE,
    TRAIN,
    classifier_of,
    net_classifier,
    one_thread,  # noqa: F401
    run,
    within_step,
    without_times,
)

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = 6
# Python ends by SIGINT itself after an unhandled KeyboardInterrupt, or with 1 where it came up through `exec`.
EXIT_CODES = {"sigkill": {-9}, "ctrl_c": {-2, 1}, "sigterm": {143}}
PROJECT = Path(__file__).parents[3]


class Interruption(Exception):
    """Something that has nothing to do with training."""


def raising(error: type[BaseException]) -> Callable[..., None]:
    def act(*_: object) -> None:
        raise error

    return act


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[str, list[dict[str, object]], TrainResult]]:
    """Weights, history and result of a training of a mode that nothing interrupted."""

    @cache
    def uninterrupted(mode: str) -> tuple[str, list[dict[str, object]], TrainResult]:
        folder = tmp_path_factory.mktemp(f"straight_{mode}")
        classifier, result = run(folder, MODES[mode], classifier=classifier_of(mode))
        return weights_sha256(classifier), without_times(result), result

    return uninterrupted


def assert_goes_on(mode: str, folder: Path, straight, *, from_step: range) -> None:
    classifier, result = run(folder, MODES[mode], classifier=classifier_of(mode))
    weights, history, uninterrupted = straight(mode)
    assert result.resumed_from_step in from_step
    assert weights_sha256(classifier) == weights
    assert without_times(result) == history
    assert all(torch.equal(result.last[name], tensor) for name, tensor in uninterrupted.last.items())


@pytest.mark.parametrize(
    ("error", "step"),
    [*((Interruption, step) for step in range(1, STEPS)), (KeyboardInterrupt, 2), (SystemExit, 4)],
)
def test_resume__error_between_any_two_steps(straight, tmp_path: Path, error: type[BaseException], step: int) -> None:
    asked = iter(range(STEPS))
    with pytest.raises(error):
        run(tmp_path, MODES["scratch"], stop_requested=lambda: next(asked) == step and raising(error)())
    assert_goes_on("scratch", tmp_path, straight, from_step=range(step, step + 1))


@pytest.mark.parametrize("step", range(STEPS))
def test_resume__error_within_a_step_goes_on_from_the_state_before(straight, tmp_path: Path, step: int) -> None:
    broken = within_step(net_classifier(), step, raising(Interruption))
    with pytest.raises(Interruption):
        run(tmp_path, MODES["scratch"], classifier=broken, save_every_seconds=0)
    assert_goes_on("scratch", tmp_path, straight, from_step=range(step, step + 1))


def test_resume__error_within_a_step_does_not_save_the_half_step(tmp_path: Path) -> None:
    """The weights of an epoch's end, though batch norm's statistics have gone on since."""
    with pytest.raises(Interruption):
        run(tmp_path, classifier=within_step(net_classifier(), 5, raising(Interruption)))
    _, result = run(tmp_path)
    assert result.resumed_from_step == 3


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resume__stop_request_before_any_step(straight, tmp_path: Path, step: int) -> None:
    asked = iter(range(STEPS))
    with pytest.raises(TrainingStopped, match=f"in epoch {1 + step // 3} after {step % 3} of 3 steps, which are saved"):
        run(tmp_path, MODES["scratch"], stop_requested=lambda: next(asked) == step)
    assert_goes_on("scratch", tmp_path, straight, from_step=range(step, step + 1))


def test_resume__error_while_evaluating(straight, tmp_path: Path) -> None:
    """All steps of the epoch are done and its row is not."""
    classifier = net_classifier()

    def hook(*_: object) -> None:
        if not classifier.training:
            raise Interruption

    classifier.head.register_forward_hook(hook)
    with pytest.raises(Interruption):
        run(tmp_path, MODES["scratch"], classifier=classifier)
    assert_goes_on("scratch", tmp_path, straight, from_step=range(3, 4))


def test_resume__error_of_a_listener_comes_after_the_save(straight, tmp_path: Path) -> None:
    with pytest.raises(Interruption):
        run(tmp_path, MODES["scratch"], on_epoch=raising(Interruption))
    heard: list[EpochRow] = []
    _, result = run(tmp_path, MODES["scratch"], on_epoch=heard.append)
    assert (result.resumed_from_epoch, [row.epoch for row in heard]) == (1, [2])


def test_resume__many_times_over(straight, tmp_path: Path) -> None:
    for _ in range(STEPS - 1):
        asked = iter(range(STEPS))
        with pytest.raises(TrainingStopped):
            run(tmp_path, MODES["scratch"], stop_requested=lambda a=asked: next(a) == 1)
    assert_goes_on("scratch", tmp_path, straight, from_step=range(STEPS - 1, STEPS))


@pytest.mark.parametrize(("every", "saved"), [(0, [0, 1, 2, 3, 4, 5]), (60, [0, 0, 0, 3, 3, 3])])
def test_resume__saves_as_often_as_asked(tmp_path: Path, every: float, saved: list[int]) -> None:
    seen: list[int] = []
    run(tmp_path, stop_requested=lambda: bool(seen.append(progress_in(tmp_path).steps)), save_every_seconds=every)
    assert seen == saved
    assert progress_in(tmp_path).steps == STEPS


def test_resume__finished_state_is_taken_as_it_is(straight, tmp_path: Path) -> None:
    run(tmp_path, MODES["scratch"])
    before = (tmp_path / STATE_FILE).stat().st_mtime_ns
    assert_goes_on("scratch", tmp_path, straight, from_step=range(STEPS, STEPS + 1))
    assert (tmp_path / STATE_FILE).stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["recipe", "seed", "metric", "val", "labels", "start"])
def test_resume__state_of_another_training_is_passed_over(tmp_path: Path, change: str) -> None:
    run(tmp_path)
    relabelled = LabelledImages(TRAIN.image_ids, TRAIN.images_nchw, TRAIN.labels_n[::-1].copy())
    changed: dict[str, dict[str, object]] = {
        "recipe": {"recipe": RECIPE.model_copy(update={"weight_decay": 0.0})},
        "seed": {"seed": 1},
        "metric": {"metric": "macro_f1"},
        "val": {"val_part": coloured_shapes(9, seed=4)},
        "labels": {"train_part": relabelled},
        "start": {"classifier": net_classifier(seed=5)},
    }
    _, result = run(tmp_path, **changed[change])
    assert result.resumed_from_step == 0


def ended_process(folder: Path, mode: str, kind: str, step: int) -> None:
    command = [sys.executable, "-m", "platform_tests.vision.trainings", str(folder), mode, kind, str(step)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode in EXIT_CODES[kind], done.stderr
    assert ("KeyboardInterrupt" in done.stderr) == (kind == "ctrl_c"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["scratch", "finetune"])
@pytest.mark.parametrize(("kind", "goes_on_after"), [("sigkill", 0), ("ctrl_c", 1), ("sigterm", 1)])
def test_resume__process_ended_within_a_step(
    straight, tmp_path: Path, mode: str, kind: str, goes_on_after: int
) -> None:
    """SIGKILL loses the step under way; the others wait for its end."""
    ended_process(tmp_path / "ended", mode, kind, 4)
    assert_goes_on(mode, tmp_path / "ended", straight, from_step=range(4 + goes_on_after, 5 + goes_on_after))


@pytest.mark.slow
def test_resume__finetuning_stopped_or_broken_at_any_step(straight, tmp_path: Path) -> None:
    for step in (1, 2, 4, 5):
        asked, folder = iter(range(STEPS)), tmp_path / f"step_{step}"
        error, ask = (TrainingStopped, bool) if step % 2 else (Interruption, raising(Interruption))
        with pytest.raises(error):
            run(
                folder,
                MODES["finetune"],
                classifier=classifier_of("finetune"),
                stop_requested=lambda a=asked, n=step, ask=ask: ask(True) if next(a) == n else False,
            )
        assert_goes_on("finetune", folder, straight, from_step=range(step, step + 1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_resume__two_processes_ended_in_every_way_one_after_the_other(straight, tmp_path: Path) -> None:
    recipe, folder, reached = MODES["two_processes"], tmp_path / "ended", [(0, 0)]

    def go_on(**options: object) -> None:
        run(folder, recipe, classifier=classifier_of("two_processes"), save_every_seconds=0, **options)

    def reach() -> None:
        # An epoch's evaluation is progress too, where its last step was saved before the end.
        progress = progress_in(folder)
        assert (progress.steps, progress.epoch) > reached[-1], reached
        reached.append((progress.steps, progress.epoch))

    with pytest.raises(Interruption):
        go_on(on_epoch=raising(Interruption))
    reach()
    for kind in EXIT_CODES:
        ended_process(folder, "two_processes", kind, 1)
        reach()
    heard: list[EpochRow] = []
    with pytest.raises(TrainingStopped):
        go_on(on_epoch=heard.append, stop_requested=lambda: bool(heard))
    reach()
    steps, _ = reached[-1]
    assert steps < recipe.epochs * 3
    assert_goes_on("two_processes", folder, straight, from_step=range(steps, steps + 1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_resume__ddp_sums_several_buckets_of_three_ranks_in_the_same_order(straight, tmp_path: Path) -> None:
    """Two numbers have one sum; with a third the order counts."""
    with pytest.raises(Interruption):
        run(tmp_path, MODES["ddp"], classifier=classifier_of("ddp"), on_epoch=raising(Interruption))
    assert_goes_on("ddp", tmp_path, straight, from_step=range(3, 18))


def progress_in(folder: Path) -> Progress:
    """That of the saved state."""
    if not (folder / STATE_FILE).exists():
        return Progress(threads=1)
    return Progress.model_validate_json(torch.load(folder / STATE_FILE, weights_only=True)["progress"])
