"""`kestrel lr-find`: the learning-rate range test of one network trial, in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    import polars as pl

_SHOWN_ROWS = 20


@click.command("lr-find")
@click.argument("experiment")
@click.argument("trial")
@click.option(
    "--steps",
    type=click.IntRange(min=2),
    default=100,
    show_default=True,
    help="Optimizer steps, each at a higher rate than the last.",
)
def lr_find(experiment: str, trial: str, steps: int) -> None:
    """Try rising learning rates on TRIAL (finetune__s0) of EXPERIMENT (elpv/probes) and suggest one; nothing is kept.

    The suggestion is where the smoothed loss falls steepest (Smith 2017). The dataset must have been materialized.
    """
    from platform_assets.vision.training.lr_range import suggested_rate

    try:
        tested = _tested(experiment, trial, steps)
        _show(tested)
        click.echo(f"\nsuggested: learning_rate: {suggested_rate(tested):.1e}")
    except (RuntimeError, ValueError) as error:
        _not_tested(error)


def _not_tested(error: RuntimeError | ValueError) -> NoReturn:
    """Our own errors say what is not here; anything else is a defect and keeps its traceback."""
    if not type(error).__module__.startswith("platform_assets."):
        raise error
    raise click.ClickException(str(error)) from error


def _show(tested: pl.DataFrame) -> None:
    shown = tested.gather_every(max(1, tested.height // _SHOWN_ROWS))
    most = max(shown["smoothed_loss"])
    for rate, loss in shown.select("learning_rate", "smoothed_loss").rows():
        click.echo(f"{rate:10.2e}  {loss:8.4f}  {'#' * round(40 * loss / most)}")


def _tested(experiment: str, trial_key: str, steps: int) -> pl.DataFrame:
    from platform_assets.cli import experiment_named
    from platform_assets.components.checkpoint_steps import teacher_of
    from platform_assets.components.inputs import open_inputs
    from platform_assets.components.project_specs import dataset_of
    from platform_assets.resources import resources
    from platform_assets.settings import Settings
    from platform_assets.vision.machine.devices import choose_device
    from platform_assets.vision.networks.models import initial_classifier
    from platform_assets.vision.training.lr_range import lr_range_test
    from platform_assets.vision.training.pixels import Pixels
    from platform_assets.vision.trials.network_fitting import network_parts

    spec, settings = experiment_named(experiment), Settings()
    if trial_key not in spec.trials:
        raise click.UsageError(f"{trial_key}: not a trial of {experiment}; it has {', '.join(spec.trials)}")
    opened = resources(settings)
    files, say = opened["files"], _say
    inputs = open_inputs(spec, dataset_of(spec, Path.cwd()), opened["tables"].open(), files, say=say)
    trial = inputs.trial(trial_key)
    if trial.train is None:
        raise click.UsageError(
            f"{trial_key}: mode {trial.mode!r} has no learning rate; name a trial that trains a network"
        )
    pixels = Pixels(inputs.root, spill=files.decoded(), cache=files.pixel_cache(), say=say)
    part = network_parts(trial, inputs.records_of(trial), pixels, inputs.label_map)["train"]
    classifier = initial_classifier(trial, len(inputs.label_map), inputs.start(spec.variants[trial.variant]))
    teacher = teacher_of(trial, opened["outputs"].open(), Path(files.root), inputs.label_map)
    device = choose_device(settings.device).device
    say(f"{trial_key}: {len(part):,} images, {steps} steps of {trial.train.batch_size} on {device}")
    return lr_range_test(classifier, part, trial.train, seed=trial.seed, device=device, steps=steps, teacher=teacher)


def _say(text: str) -> None:
    click.echo(text, err=True)
