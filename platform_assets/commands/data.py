"""The `kestrel data` commands: what is typed and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from platform_assets.commands.columns import print_columns
from platform_assets.commands.data_transfers import here, progress_lines, pull, push, snapshot_name
from platform_assets.commands.dataset_exports import EXPORT_FORMATS, ExportFormat, Release, writer

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.commands.project_datasets import ProjectDatasets

_SHOWN_ROWS = 20
_NOT_STATED = "not stated"
_NAME = click.argument("name")


@click.group()
def data() -> None:
    """Datasets of this project: add, look at, compare, keep, move and export them.

    \b
    kestrel data add images --name birds --licence CC-BY-4.0
    kestrel data validate birds
    kestrel materialize birds
    kestrel data snapshot birds spring
    kestrel data diff birds spring current
    """


@data.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--name", help="Name of the dataset; the folder's name unless given.")
@click.option("--licence", help="SPDX id or name of the images' licence.")
@click.option("--dvc/--no-dvc", default=True, help="Track the folder with DVC, or register it as it lies.")
def add(path: Path, name: str | None, licence: str | None, dvc: bool) -> None:
    """Make the folder PATH a dataset: track it with DVC and write its YAML.

    The layout is recognised: class folders, YOLO, COCO, DICE, CUB. Run it again on a changed folder and the new
    content is tracked as a new version; the YAML stays.

    \b
    kestrel data add images
    kestrel data add /mnt/photos --name photos --no-dvc
    """
    from platform_assets.commands.project_datasets import described, slug
    from platform_assets.stores.datasets import Datasets
    from platform_assets.vision.formats.dvc_folder import DvcSource

    datasets = here()
    place = _relative(path, datasets.root)
    sources = {spec.name: spec.source for spec in datasets.specs().values()}
    tracked = {source.path: owner for owner, source in sources.items() if isinstance(source, DvcSource)}
    if dvc and place in tracked:
        version = Datasets(datasets.root, datasets.data).add(Path(place))
        click.echo(f"{tracked[place]}: {place} is tracked as version {version}")
        return
    name = name or slug(path.resolve().name)
    datasets.require_free(name)
    found, split = described(path.resolve())
    if dvc:
        version = Datasets(datasets.root, datasets.data).add(Path(place))
        click.echo(f"{name}: {place} is tracked as version {version}; commit {place}.dvc")
        source = {"kind": "dvc", "path": place} | ({} if found == {"kind": "folder"} else {"format": found})
    else:
        source = {**found, "path": place}
    said = {"description": f"Images of the folder {place}.", "licence": licence, "source": source, "split": split}
    written = datasets.register(name, said, "Say in `description` what the images show and what the label means.")
    click.echo(f"{written}\n\nNext:\n  kestrel data validate {name}\n  kestrel materialize {name}")


@data.command("list")
def list_() -> None:
    """The datasets of this project: kind, version, images, licence."""
    from platform_assets.commands.project_datasets import licence_of

    datasets = here()
    rows = [("name", "kind", "version", "images", "licence")]
    for spec in datasets.specs().values():
        version = datasets.version(spec.name)
        images = f"{datasets.records(spec.name).height:,}" if version else "-"
        rows.append(
            (spec.name, spec.source.kind, version or "not materialized", images, licence_of(spec) or _NOT_STATED)
        )
    print_columns(rows)


@data.command()
@_NAME
def show(name: str) -> None:
    """The facts of dataset NAME that its data card has, and its snapshots."""
    from platform_assets.commands.project_datasets import licence_of
    from platform_assets.stores.source_roots import project_snapshots, stated_version
    from platform_assets.vision.datasets.profile import class_counts

    datasets = here()
    spec = datasets.spec(name)
    version = datasets.version(name)
    facts = [
        ("name", name),
        ("description", spec.description),
        ("source", spec.source.model_dump_json(exclude_none=True)),
        ("source version", stated_version(spec.source, datasets.root, datasets.data) or "the hash of its files"),
        ("licence", licence_of(spec) or _NOT_STATED),
        ("citation", spec.citation or _NOT_STATED),
        ("version", version or f"not materialized; `kestrel materialize {name}`"),
        ("older versions", ", ".join(datasets.versions(name)[:-1][::-1]) or "none"),
        ("snapshots", ", ".join(project_snapshots(datasets.data).names(name)) or "none"),
    ]
    if version:
        records = datasets.records(name)
        facts.append(("images", f"{records.height:,}, {int(records['bytes'].sum()) / 1e6:,.1f} MB"))
        facts.append(("rejected", f"{datasets.tables.read((name, 'rejected')).height:,}"))
    print_columns(facts)
    if version:
        _print(class_counts(records))


@data.command()
@_NAME
@click.option("--snapshot", help="Check every byte of this snapshot instead.")
def validate(name: str, snapshot: str | None) -> None:
    """Read every image of NAME as it is now and say what is wrong; nothing is written.

    Exit code 1 when materializing it would fail, or the snapshot is not as it was kept.
    """
    from platform_assets.commands.project_datasets import validate as validated

    datasets = here()
    spec = datasets.spec(name)
    if snapshot is not None:
        _validate_snapshot(datasets, name, snapshot)
        return
    found = validated(spec, datasets.files(spec), datasets.root, lambda part: progress_lines(f"{name}: {part}"))
    click.echo(f"{name}: {found.records.height:,} images taken in, {found.rejected.height:,} rejected")
    if found.unlooked:
        click.echo(f"near duplicates: not looked for, because {found.unlooked}")
    for frame, title in ((found.rejected, "rejected"), (found.leaks, "in two parts")):
        if not frame.is_empty():
            click.echo(f"\n{title}:")
            _print(frame)
    if found.failures:
        raise click.ClickException("; ".join(found.failures))


def _validate_snapshot(datasets: ProjectDatasets, name: str, snapshot: str) -> None:
    from platform_assets.stores.source_roots import project_snapshots

    if problems := project_snapshots(datasets.data).verify(name, snapshot):
        raise click.ClickException(f"{name}/{snapshot} is not as it was kept: {'; '.join(problems)}")
    click.echo(f"{name}/{snapshot}: every file is as it was kept")


@data.command()
@_NAME
@click.argument("old")
@click.argument("new")
@click.option("--csv", "file", type=click.File("wb"), help="Write every change to this file; `-` is the terminal.")
def diff(name: str, old: str, new: str, file: IO[bytes] | None) -> None:
    """What changed in NAME from OLD to NEW: a version (`kestrel data show`), a snapshot, or `current`.

    \b
    kestrel data diff birds spring current
    kestrel data diff birds spring current --csv changes.csv
    """
    from platform_assets.vision.datasets.dataset_diff import change_counts
    from platform_assets.vision.datasets.dataset_diff import diff as changed

    datasets = here()
    datasets.spec(name)
    changes = changed(datasets.records(name, old), datasets.records(name, new))
    if file is not None:
        changes.write_csv(file)
        return
    click.echo(", ".join(f"{count:,} {change}" for change, count in change_counts(changes).items()))
    if not changes.is_empty():
        _print(changes)


@data.command()
@_NAME
@click.argument("snapshot", callback=snapshot_name)
def snapshot(name: str, snapshot: str) -> None:
    """Keep the current version of NAME as SNAPSHOT, images included, to train on later.

    \b
    In YAML it is then a source of its own:
    source: {kind: snapshot, dataset: birds, name: spring}
    split: {kind: official}
    """
    from platform_assets.commands.project_datasets import licence_of
    from platform_assets.stores.snapshots import Snapshot
    from platform_assets.stores.source_roots import project_snapshots, stated_version
    from platform_assets.vision.datasets.scanning import source_version

    datasets = here()
    spec = datasets.spec(name)
    records = datasets.records(name)
    said, hashed = spec.model_dump(mode="json"), source_version(datasets.tables.read((name, "source")))
    kept = Snapshot(
        dataset=name,
        name=snapshot,
        version=datasets.version(name) or "",
        created_from=stated_version(spec.source, datasets.root, datasets.data) or hashed[:16],
        source=said["source"],
        split=said["split"],
        licence=licence_of(spec),
        label_map=datasets.label_map(name),
    )
    progress = progress_lines(f"{name}: keeping images")
    folder = project_snapshots(datasets.data).create(kept, records, datasets.files(spec), progress)
    click.echo(f"{name}/{snapshot}: version {kept.version}, {records.height:,} images, {folder}")


data.add_command(push)
data.add_command(pull)


@data.command()
@_NAME
@click.option("--format", "to", type=click.Choice(EXPORT_FORMATS), required=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--creator", help="Croissant: who made the dataset.")
@click.option("--url", help="Croissant: where the dataset is described.")
@click.option("--release", default="1.0.0", show_default=True, help="Croissant: version of what is published.")
@click.option("--published", type=click.DateTime(["%Y-%m-%d"]), help="Croissant: day of publication.")
def export(name: str, to: ExportFormat, folder: Path, **release: Any) -> None:
    """Write the current version of NAME into the new FOLDER in another format, parts included.

    \b
    kestrel data export birds --format yolo exports/birds
    """
    datasets = here()
    spec = datasets.spec(name)
    published = release["published"].date() if release["published"] else None
    said = Release(creator=release["creator"], url=release["url"], version=release["release"], published=published)
    write, records = writer(to, spec, said), datasets.records(name)
    click.echo(f"{name}: writing {records.height:,} images", err=True)
    write(records, datasets.label_map(name), datasets.files(spec), folder)
    click.echo(f"{name}: {records.height:,} images in {folder}")


def _relative(path: Path, root: Path) -> str:
    real = path.resolve()
    return real.relative_to(root).as_posix() if real.is_relative_to(root) else str(real)


def _print(frame: pl.DataFrame) -> None:
    """The first rows, each cell whole."""
    cells = [
        tuple(frame.columns),
        *(tuple("" if cell is None else str(cell) for cell in row) for row in frame.head(_SHOWN_ROWS).rows()),
    ]
    print_columns(cells)
    if frame.height > _SHOWN_ROWS:
        click.echo(f"... and {frame.height - _SHOWN_ROWS:,} more")
