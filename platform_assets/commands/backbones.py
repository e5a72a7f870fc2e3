"""The `kestrel backbones` commands: what is typed and what is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from platform_assets.commands.columns import print_columns
from platform_assets.settings import Settings

if TYPE_CHECKING:
    from platform_assets.vision.networks.weight_files import WeightPlaces
    from platform_assets.vision.recipes.backbones import Backbone


@click.group()
def backbones() -> None:
    """Pretrained networks: which there are, and whether the weights on this machine are whole.

    \b
    kestrel backbones list
    kestrel backbones check
    kestrel backbones check vit_small_patch14_dinov2.lvd142m
    """


@backbones.command("list")
def list_() -> None:
    """The registered backbones: their facts, and where their weights are published and are now.

    \b
    package           in an installed package
    file              a file that you put into data/weights
    cache             downloaded before, in the hub client's cache
    to be downloaded  at first use
    none              trains from scratch

    SHA-256 is that of the registry or, of a file that was used here, that of data/weights.lock.json.
    """
    from platform_assets.vision.networks.weight_files import BadLock, locked, whereabouts
    from platform_assets.vision.recipes.backbones import BACKBONES

    places = _places()
    try:
        known = locked(places)
    except BadLock as error:
        raise click.ClickException(str(error)) from error
    rows = [("name", "parameters", "px", "interpolation", "normalization", "licence", "weights", "source", "SHA-256")]
    for entry in BACKBONES.values():
        facts = (f"{(entry.parameters or 0) / 1e6:.1f} M", str(entry.image_size_px), entry.interpolation)
        packaged = entry.weights
        source = packaged.package if packaged else entry.hub.repo if entry.hub else "-"
        sha256 = (packaged.sha256 if packaged else known.get(entry.name, "-"))[:12]
        licence = entry.weights_licence or "-"
        rows.append((entry.name, *facts, entry.normalization, licence, whereabouts(entry, places), source, sha256))
    print_columns(rows)
    click.echo("\nAny other model of timm is `backbone: timm/NAME`; a network of your own is `model: module:callable`.")


@backbones.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
def check(names: Sequence[str]) -> None:
    """Read the weights of each NAME, or all that are on this machine, and say what is wrong with them.

    Bytes are compared with the registry, the hub's statement or data/weights.lock.json, tensors with the architecture.
    Nothing is downloaded or written. Exit code 1 when a file is damaged, changed, of another architecture or, for a
    NAME, not here.
    """
    from platform_assets.vision.recipes.backbones import BACKBONES, UnknownBackbone, get_backbone

    try:
        asked = [get_backbone(name) for name in names or BACKBONES]
    except UnknownBackbone as error:
        raise click.ClickException(str(error)) from error
    places = _places()
    found = asked if names else _here(asked, places)
    bad = 0
    for number, backbone in enumerate(found, 1):
        click.echo(f"{number} of {len(found)}: {backbone.name}", err=True)
        problem, facts = _checked(backbone, places)
        click.echo(f"{'BAD' if problem else 'good'}  {backbone.name}  {problem or facts}")
        bad += problem is not None
    if not found:
        click.echo("no weights are on this machine yet; `kestrel backbones list` shows where they come from")
    if bad:
        raise SystemExit(1)


def _here(asked: Iterable[Backbone], places: WeightPlaces) -> list[Backbone]:
    from platform_assets.vision.networks.weight_files import whereabouts

    return [backbone for backbone in asked if whereabouts(backbone, places) in ("package", "file", "cache")]


def _checked(backbone: Backbone, places: WeightPlaces) -> tuple[str | None, str]:
    """What is wrong, and what is said of a file where nothing is."""
    from platform_assets.vision.networks.tensor_files import BadTensorFile
    from platform_assets.vision.networks.weight_files import (
        BadLock,
        NoPretrainedWeights,
        WeightsChanged,
        WeightsMissing,
        locate,
        locked,
    )
    from platform_assets.vision.networks.weights import WeightsDoNotFit, require_fit

    try:
        found = locate(backbone, places)
        if found is None:
            return "its weights are not on this machine; the first trial that needs them downloads them", ""
        require_fit(backbone, found.path)
        known = found.origin == "package" or backbone.name in locked(places)
    except (BadLock, BadTensorFile, NoPretrainedWeights, WeightsChanged, WeightsDoNotFit, WeightsMissing) as error:
        return str(error), ""
    return None, f"{found.origin} {found.path}, SHA-256 {found.sha256[:12]}{'' if known else ', not used yet'}"


def _places() -> WeightPlaces:
    from platform_assets.vision.networks.weight_files import WeightPlaces

    settings = Settings()
    return WeightPlaces(settings.root, settings.data_dir)
