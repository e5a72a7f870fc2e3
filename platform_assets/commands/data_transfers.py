"""`kestrel data push` and `pull`: a DVC folder or a kept snapshot to a remote and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from platform_assets.commands.project_datasets import ProjectDatasets
    from platform_assets.stores.snapshot_transfers import SnapshotTransfers

Command = TypeVar("Command", bound=Callable[..., Any])


def snapshot_name(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    from platform_assets.vision.formats.snapshot import SNAPSHOT_NAME

    if name is not None and not re.fullmatch(SNAPSHOT_NAME, name):
        raise click.BadParameter(f"{name!r}: letters, digits and . _ = + - are needed, a letter or digit first")
    return name


def _moving(command: Command) -> Command:
    said = "URL such as s3://bucket/folder; the project's own unless given. For a DVC folder it is used from now on."
    command = click.option("--endpoint-url", help="Address of an S3-compatible store that is not AWS.")(command)
    command = click.option("--remote", help=said)(command)
    command = click.option("--snapshot", callback=snapshot_name, help="Move this kept snapshot of NAME.")(command)
    return click.argument("name", callback=snapshot_name)(command)


@click.command()
@_moving
def push(name: str, snapshot: str | None, remote: str | None, endpoint_url: str | None) -> None:
    """Upload what the remote lacks of NAME; one that was broken off goes on where it was.

    \b
    kestrel data push birds --remote s3://bucket/birds --endpoint-url http://nas:8333
    kestrel data push birds --snapshot spring --remote /mnt/nas/birds
    """
    if snapshot is None:
        _moved(name, "pushed", remote, endpoint_url)
        return
    moves = _transfers(remote, endpoint_url)
    count = moves.push(name, snapshot, progress_lines(f"{name}/{snapshot}: sending packs"))
    _say(moves, name, snapshot, f"{count:,} files pushed to")


@click.command()
@_moving
def pull(name: str, snapshot: str | None, remote: str | None, endpoint_url: str | None) -> None:
    """Make the folder of NAME what its .dvc file states, or get a snapshot, from the remote.

    A snapshot of a dataset that this project does not define is pulled too, and trained on by
    source: {kind: snapshot, dataset: NAME, name: SNAPSHOT}.

    \b
    kestrel data pull birds
    kestrel data pull birds --snapshot spring --remote /mnt/nas/birds
    """
    if snapshot is None:
        _moved(name, "pulled", remote, endpoint_url)
        return
    moves = _transfers(remote, endpoint_url)
    count = moves.pull(name, snapshot, progress_lines(f"{name}/{snapshot}: fetching packs"))
    _say(moves, name, snapshot, f"{count:,} files pulled from")


def here() -> ProjectDatasets:
    """The datasets of the project in the working directory. Raises click.UsageError where there is none."""
    from platform_assets.cli import project_module
    from platform_assets.commands.project_datasets import ProjectDatasets

    return ProjectDatasets.here(project_module().split(".")[0])


def progress_lines(what: str) -> Callable[[int, int], None]:
    from platform_assets.components.metadata import every_two_seconds

    return every_two_seconds(lambda line: click.echo(line, err=True), what)


def _transfers(remote: str | None, endpoint_url: str | None) -> SnapshotTransfers:
    from platform_assets.stores.datasets import Datasets
    from platform_assets.stores.remotes import Remote
    from platform_assets.stores.snapshot_transfers import SnapshotTransfers
    from platform_assets.stores.source_roots import project_snapshots

    datasets = here()
    _require_remote_of(remote, endpoint_url)
    used = Remote(remote, endpoint_url) if remote else Datasets(datasets.root, datasets.data).remote()
    return SnapshotTransfers(project_snapshots(datasets.data), used)


def _say(moves: SnapshotTransfers, name: str, snapshot: str, done: str) -> None:
    kept = moves.snapshots.get(name, snapshot)
    click.echo(f"{name}/{snapshot}: {done} {moves.remote.url}, version {kept.version}")


def _moved(name: str, verb: str, remote: str | None, endpoint_url: str | None) -> None:
    from platform_assets.stores.datasets import Datasets
    from platform_assets.vision.formats.dvc_folder import DvcSource

    datasets = here()
    spec = datasets.spec(name)
    if not isinstance(spec.source, DvcSource):
        cure = "`kestrel data add FOLDER` tracks one, --snapshot moves a kept snapshot of any"
        raise click.UsageError(f"{name}: its source is of kind {spec.source.kind}, not dvc; {cure}")
    _require_remote_of(remote, endpoint_url)
    store, folder = Datasets(datasets.root, datasets.data), spec.source.folder_in(datasets.root)
    if remote:
        store.use_remote(remote, endpoint_url=endpoint_url)
    count = store.push(folder) if verb == "pushed" else store.pull(folder)
    click.echo(f"{name}: {count:,} objects {verb}, version {store.version(folder)}")


def _require_remote_of(remote: str | None, endpoint_url: str | None) -> None:
    if endpoint_url and not remote:
        raise click.UsageError("--endpoint-url belongs to --remote; give both")
