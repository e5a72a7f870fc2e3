"""Snapshots moved through a folder, and through a real S3 server: whole or not at all, and nothing twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from platform_assets.stores.remotes import Remote, RemoteError, RemoteUnreachable
from platform_assets.stores.snapshot_transfers import SnapshotTransfers
from platform_assets.stores.snapshots import DamagedSnapshot, MissingSnapshot, Snapshot, SnapshotConflict, Snapshots
from platform_assets.stores.source_roots import project_snapshots, ready_root, stated_version
from platform_assets.vision.datasets.packs import pack
from platform_assets.vision.datasets.profile import records_version
from platform_assets.vision.datasets.scanning import scan
from platform_assets.vision.datasets.splits import SplitRule, assign_splits
from platform_assets.vision.formats.folder import FolderSource
from platform_assets.vision.formats.snapshot import SnapshotSource
from platform_tests.components.projects import write_images
from platform_tests.s3_server import S3Server

SOURCE = FolderSource(kind="folder", path="images")
TRAINED = SnapshotSource(kind="snapshot", dataset="birds", name="spring")


def kept(snapshots: Snapshots, images: Path, name: str = "spring") -> Snapshot:
    """Keeps the images as a snapshot of birds."""
    found = scan(SOURCE.read(images), images)
    records = assign_splits(found.records, SplitRule(kind="stratified"))
    said = Snapshot(
        dataset="birds",
        name=name,
        version=records_version(records)[:16],
        created_from="0123",
        source={},
        split={},
        licence=None,
        label_map=found.label_map,
    )
    snapshots.create(said, records, images)
    return said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def trained_version(project: Path) -> str:
    """The version of the records of a dataset whose source is the snapshot."""
    root = ready_root(TRAINED, project, project / "data")
    records = assign_splits(scan(TRAINED.read(root), root).records, SplitRule(kind="official"))
    return records_version(records)[:16]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", per_class=6, side=12)


@pytest.fixture
def here(tmp_path: Path) -> Snapshots:
    return project_snapshots(tmp_path / "here/data")


@pytest.fixture
def there(tmp_path: Path) -> Snapshots:
    """Of another machine."""
    return project_snapshots(tmp_path / "there/data")


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(str(tmp_path / "remote"))


def test_pull__elsewhere_gives_the_same_snapshot_and_the_same_version(
    here: Snapshots, there: Snapshots, images: Path, remote: Remote, tmp_path: Path
) -> None:
    said, heard = kept(here, images), []
    assert SnapshotTransfers(here, remote).push("birds", "spring", lambda *done: heard.append(done)) == 2
    assert heard == [(1, 2), (2, 2)]
    assert SnapshotTransfers(here, remote).push("birds", "spring") == 0
    shutil.rmtree(images)
    shutil.rmtree(here.root)
    assert SnapshotTransfers(there, remote).pull("birds", "spring") == 2
    assert there.get("birds", "spring") == said
    assert there.verify("birds", "spring") == []
    assert stated_version(TRAINED, tmp_path / "there", tmp_path / "there/data") == said.version
    assert trained_version(tmp_path / "there") == said.version
    assert SnapshotTransfers(there, remote).pull("birds", "spring") == 0
    assert not list((there.root / ".arriving/birds").glob("[!.]*"))


def test_push__the_manifest_is_last_and_what_is_there_is_not_sent_again(
    here: Snapshots, there: Snapshots, images: Path, remote: Remote, tmp_path: Path
) -> None:
    kept(here, images)
    packs = tmp_path / "remote/packs"

    def broken_off(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SnapshotTransfers(here, remote).push("birds", "spring", broken_off)
    (sent,) = packs.iterdir()
    before = sent.stat().st_mtime_ns
    with pytest.raises(MissingSnapshot, match=r"birds/spring: not on .*remote; snapshots there are none; `kestrel"):
        SnapshotTransfers(there, remote).pull("birds", "spring")
    assert SnapshotTransfers(here, remote).push("birds", "spring") == 1
    assert sent.stat().st_mtime_ns == before
    (images / "red/000.png").unlink()
    kept(here, images, "autumn")
    sent.write_bytes(sent.read_bytes()[:-1])
    assert SnapshotTransfers(here, remote).push("birds", "spring") == 1, "one that was cut off is sent again"
    assert SnapshotTransfers(here, remote).push("birds", "autumn") == 2
    assert {path.name for path in packs.iterdir()} == {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in packs.iterdir()
    }


def test_pull__a_break_leaves_no_snapshot_and_is_gone_on_with(
    here: Snapshots, there: Snapshots, images: Path, remote: Remote
) -> None:
    kept(here, images)
    SnapshotTransfers(here, remote).push("birds", "spring")

    def broken_off(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SnapshotTransfers(there, remote).pull("birds", "spring", broken_off)
    assert there.names("birds") == []
    assert not there.folder("birds", "spring").exists()
    assert SnapshotTransfers(there, remote).pull("birds", "spring") == 1
    assert contents(there.folder("birds", "spring")) == contents(here.folder("birds", "spring"))


def test_pull__bytes_that_were_not_kept_are_refused_and_nothing_is_visible(
    here: Snapshots, there: Snapshots, images: Path, remote: Remote, tmp_path: Path
) -> None:
    kept(here, images)
    SnapshotTransfers(here, remote).push("birds", "spring")
    shard = max((tmp_path / "remote/packs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    said = rf"packs/{shard.name}: {len(data):,} bytes with SHA-256 .*were kept; remove it there, and push the snapshot"
    with pytest.raises(DamagedSnapshot, match=said):
        SnapshotTransfers(there, remote).pull("birds", "spring")
    assert there.names("birds") == []
    shard.unlink()
    with pytest.raises(DamagedSnapshot, match=f"packs/{shard.name}: missing; remove it there, and push"):
        SnapshotTransfers(there, remote).pull("birds", "spring")
    SnapshotTransfers(here, remote).push("birds", "spring")
    SnapshotTransfers(there, remote).pull("birds", "spring")
    assert there.verify("birds", "spring") == []


@pytest.mark.parametrize("same_size", [False, True])
@pytest.mark.parametrize("file", ["packs/shard-all.tar", "packs/manifest.parquet", "snapshot.json"])
def test_pull__restores_a_damaged_snapshot(
    here: Snapshots, images: Path, remote: Remote, file: str, same_size: bool
) -> None:
    kept(here, images)
    SnapshotTransfers(here, remote).push("birds", "spring")
    folder = here.folder("birds", "spring")
    before = contents(folder)
    (folder / file).write_bytes(before[file][:-9] + b"\0damaged\0" if same_size else b"damaged")
    if file != "snapshot.json":
        with pytest.raises(DamagedSnapshot, match=r"`kestrel data pull birds --snapshot spring` restores it from a"):
            here.unpacked("birds", "spring")
    with pytest.raises(DamagedSnapshot):
        SnapshotTransfers(here, remote).push("birds", "spring")
    assert SnapshotTransfers(here, remote).pull("birds", "spring") == (file != "snapshot.json")
    assert contents(folder) == before


def test_one_name_with_two_contents__is_refused_both_ways(
    here: Snapshots, there: Snapshots, images: Path, remote: Remote
) -> None:
    first = kept(here, images)
    SnapshotTransfers(here, remote).push("birds", "spring")
    (images / "red/000.png").unlink()
    other = kept(there, images)
    before = contents(there.folder("birds", "spring"))
    said = rf"snapshot birds/spring: .*remote has it with version {first.version}, not {other.version}; snapshots never"
    for move in (SnapshotTransfers(there, remote).push, SnapshotTransfers(there, remote).pull):
        with pytest.raises(SnapshotConflict, match=said):
            move("birds", "spring")
    assert contents(there.folder("birds", "spring")) == before


def test_pull__a_manifest_that_leads_out_of_its_folder_is_refused(
    here: Snapshots, there: Snapshots, images: Path, remote: Remote, tmp_path: Path
) -> None:
    kept(here, images)
    SnapshotTransfers(here, remote).push("birds", "spring")
    manifest = tmp_path / "remote/snapshots/birds/spring.json"
    said = json.loads(manifest.read_text())
    said["files"]["../../../out"] = said["files"]["packs/shard-all.tar"]
    manifest.write_text(json.dumps(said))
    with pytest.raises(DamagedSnapshot, match=r"not a snapshot's manifest .*leaves the source"):
        SnapshotTransfers(there, remote).pull("birds", "spring")
    (tmp_path / "remote/snapshots/birds/autumn.json").write_text(
        (here.folder("birds", "spring") / "snapshot.json").read_text()
    )
    with pytest.raises(DamagedSnapshot, match=r"autumn.json: is about birds/spring; remove it and push again"):
        SnapshotTransfers(there, remote).pull("birds", "autumn")
    assert there.names("birds") == []


def test_pull__a_name_used_again_is_not_read_from_what_was_unpacked_before(
    here: Snapshots, there: Snapshots, images: Path, remote: Remote, tmp_path: Path
) -> None:
    kept(there, images)
    trained_version(tmp_path / "there")
    shutil.rmtree(there.folder("birds", "spring"))
    (images / "red/000.png").unlink()
    said = kept(here, images)
    SnapshotTransfers(here, remote).push("birds", "spring")
    SnapshotTransfers(there, remote).pull("birds", "spring")
    assert trained_version(tmp_path / "there") == said.version


def test_remote__that_cannot_be_used_is_named(here: Snapshots, images: Path, tmp_path: Path) -> None:
    kept(here, images)
    with pytest.raises(RemoteError, match="an endpoint URL belongs to an s3:// remote; leave it out"):
        Remote(str(tmp_path), "http://nas:8333")
    with pytest.raises(RemoteError, match=r"remote gopher://nas: Protocol not known"):
        SnapshotTransfers(here, Remote("gopher://nas")).push("birds", "spring")
    (tmp_path / "file").write_text("")
    with pytest.raises(RemoteUnreachable, match=r"file: broke off: .*run it again, what is there stays"):
        SnapshotTransfers(here, Remote(str(tmp_path / "file"))).push("birds", "spring")


PUSH = """
import sys
from pathlib import Path
import s3fs
from platform_assets.stores.remotes import Remote
from platform_assets.stores.snapshot_transfers import SnapshotTransfers
from platform_assets.stores.source_roots import project_snapshots
print("ready", flush=True)
SnapshotTransfers(project_snapshots(Path(sys.argv[1])), Remote(*sys.argv[2:])).push("birds", "spring")
"""


@pytest.mark.slow
def test_s3__a_push_that_was_killed_is_no_snapshot_and_sends_only_the_rest(
    s3: S3Server, here: Snapshots, there: Snapshots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("platform_assets.stores.snapshots.pack", partial(pack, shard_mb=1))
    said = kept(here, write_images(tmp_path / "large", per_class=12, side=400))
    s3.make_bucket("packs")
    remote = Remote("s3://packs/birds", s3.endpoint_url)
    files = len(here.kept("birds", "spring").files)
    arguments = [sys.executable, "-c", PUSH, str(tmp_path / "here/data"), remote.url, s3.endpoint_url]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while len(written(s3)) <= 2:
                work_a_little(process)
        finally:
            process.kill()
    before = written(s3)
    assert 2 < len(before) < files
    with pytest.raises(MissingSnapshot, match=r"birds/spring: not on s3://packs/birds; snapshots there are none"):
        SnapshotTransfers(there, remote).pull("birds", "spring")
    assert SnapshotTransfers(here, remote).push("birds", "spring") == files - len(before)
    assert {key: found for key, found in written(s3).items() if key in before} == before, "uploaded again"
    assert SnapshotTransfers(there, remote).pull("birds", "spring") == files
    assert contents(there.folder("birds", "spring")) == contents(here.folder("birds", "spring"))
    assert trained_version(tmp_path / "there") == said.version


def written(s3: S3Server) -> dict[str, tuple[object, str]]:
    """When each object was written, and what."""
    found = s3.client().list_objects_v2(Bucket="packs").get("Contents", [])
    return {item["Key"]: (item["LastModified"], item["ETag"]) for item in found}


def work_a_little(process: subprocess.Popen[bytes]) -> None:
    """So short a while, and stopped again, that the push cannot end in it, however busy the machine is."""
    assert process.poll() is None, "it ended before it had pushed anything"
    process.send_signal(signal.SIGCONT)
    time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
