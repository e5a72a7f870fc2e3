"""Snapshots of real small datasets: kept, refused, damaged, unpacked, and trained on when the files are gone."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from platform_assets.stores.snapshots import DamagedSnapshot, MissingSnapshot, Snapshot, SnapshotConflict, Snapshots
from platform_assets.stores.source_roots import project_snapshots, ready_root, stated_version
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.profile import records_version
from platform_assets.vision.datasets.scanning import ChangedImage, hash_files, scan, source_version
from platform_assets.vision.datasets.sources import source_files
from platform_assets.vision.datasets.splits import SplitRule, assign_splits
from platform_assets.vision.formats.copies import CannotWrite
from platform_assets.vision.formats.folder import FolderSource
from platform_assets.vision.formats.snapshot import SnapshotSource
from platform_tests.components.projects import write_images

RULE = SplitRule(kind="stratified")
SOURCE = FolderSource(kind="folder", path="images", classes=("red", "green", "blue"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", per_class=6, side=12)


@pytest.fixture
def records(images: Path) -> pl.DataFrame:
    return assign_splits(scan(SOURCE.read(images), images).records, RULE)


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return project_snapshots(tmp_path / "data")


def snapshot(records: pl.DataFrame, name: str = "spring", **changes: object) -> Snapshot:
    said: dict[str, object] = {
        "dataset": "birds",
        "name": name,
        "version": records_version(records)[:16],
        "created_from": "0123",
        "source": SOURCE.model_dump(mode="json"),
        "split": RULE.model_dump(mode="json"),
        "licence": "CC0-1.0",
        "label_map": LabelMap(names=("red", "green", "blue")),
    }
    return Snapshot.model_validate(said | changes)


def test_snapshot__gives_the_same_records_after_the_files_are_gone(
    snapshots: Snapshots, records: pl.DataFrame, images: Path, tmp_path: Path
) -> None:
    kept = snapshot(records)
    snapshots.create(kept, records, images)
    shutil.rmtree(images)
    source = SnapshotSource(kind="snapshot", dataset="birds", name="spring")
    assert stated_version(source, tmp_path, tmp_path / "data") == kept.version
    root = ready_root(source, tmp_path, tmp_path / "data")
    found = scan(source.read(root), root)
    again = assign_splits(found.records, SplitRule(kind="official"))
    assert again.equals(records)
    assert records_version(again)[:16] == kept.version
    assert found.label_map == kept.label_map
    assert snapshots.records("birds", "spring").equals(records)
    assert snapshots.get("birds", "spring") == kept


def test_snapshot__unpacked_on_two_machines_has_one_source_version(
    snapshots: Snapshots, records: pl.DataFrame, images: Path, tmp_path: Path
) -> None:
    snapshots.create(snapshot(records), records, images)
    source, versions = SnapshotSource(kind="snapshot", dataset="birds", name="spring"), set()
    for cache in ("one", "other"):
        root = Snapshots(snapshots.root, tmp_path / cache).unpacked("birds", "spring")
        versions.add(source_version(hash_files(root, source_files(source, root))))
    assert len(versions) == 1


def test_unpacked__files_are_read_only_and_an_overwritten_one_is_refused(
    snapshots: Snapshots, records: pl.DataFrame, images: Path, tmp_path: Path
) -> None:
    snapshots.create(snapshot(records), records, images)
    source = SnapshotSource(kind="snapshot", dataset="birds", name="spring")
    root = ready_root(source, tmp_path, tmp_path / "data")
    assert {path.stat().st_mode & 0o222 for path in root.rglob("*") if path.is_file()} == {0}
    (root / "red/003.png").unlink()
    shutil.copy(root / "red/004.png", root / "red/003.png")
    with pytest.raises(ChangedImage, match=f"red/003.png: its bytes give .* was kept; delete {root}: it is unpacked"):
        scan(source.read(root), root)
    shutil.rmtree(root)
    root = ready_root(source, tmp_path, tmp_path / "data")
    assert assign_splits(scan(source.read(root), root).records, SplitRule(kind="official")).equals(records)


def test_create__the_same_again_is_kept_once(snapshots: Snapshots, records: pl.DataFrame, images: Path) -> None:
    folder = snapshots.create(snapshot(records), records, images)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    shutil.rmtree(images)
    assert snapshots.create(snapshot(records), records, images) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert snapshots.names("birds") == ["spring"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "f" * 16}, "version {version}, not ffffffffffffffff"),
        ({"licence": "MIT"}, "another licence"),
        (
            {"source": {"kind": "x"}, "label_map": LabelMap(names=("red", "blue", "green"))},
            "another source and label_map",
        ),
    ],
)
def test_create__a_taken_name_is_refused_and_nothing_changes(
    snapshots: Snapshots, records: pl.DataFrame, images: Path, changes: dict[str, object], said: str
) -> None:
    kept = snapshot(records)
    snapshots.create(kept, records, images)
    with pytest.raises(SnapshotConflict) as raised:
        snapshots.create(snapshot(records, **changes), records, images)
    expected = said.format(version=kept.version)
    assert str(raised.value) == (
        f"snapshot birds/spring is kept with {expected}; snapshots never change, choose another name"
    )
    assert snapshots.get("birds", "spring") == kept


def test_create__files_that_changed_since_the_records_leave_no_snapshot(
    snapshots: Snapshots, records: pl.DataFrame, images: Path
) -> None:
    (images / "red/003.png").write_bytes(b"edited")
    with pytest.raises(CannotWrite, match=r"red/003.png: its bytes give .* materialize the records again"):
        snapshots.create(snapshot(records), records, images)
    assert snapshots.names("birds") == []
    assert list((snapshots.root / "birds").iterdir()) == []


def test_verify__names_every_damaged_file(snapshots: Snapshots, records: pl.DataFrame, images: Path) -> None:
    folder = snapshots.create(snapshot(records), records, images)
    assert snapshots.verify("birds", "spring") == []
    shard = folder / "packs/shard-all.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    (folder / "packs/manifest.parquet").unlink()
    manifest, tar = snapshots.verify("birds", "spring")
    assert manifest == "packs/manifest.parquet: missing"
    assert tar.startswith(f"packs/shard-all.tar: {len(data):,} bytes, {len(data):,} were kept; SHA-256 is")
    with pytest.raises(
        DamagedSnapshot, match=r"snapshot birds/spring is damaged: packs/manifest.parquet: missing; packs/"
    ):
        snapshots.unpacked("birds", "spring")
    assert not (snapshots.cache / "birds/spring").exists()


def test_unpacked__many_at_once_get_one_whole_folder(snapshots: Snapshots, records: pl.DataFrame, images: Path) -> None:
    snapshots.create(snapshot(records), records, images)
    with ThreadPoolExecutor(4) as pool:
        roots = set(pool.map(lambda _: snapshots.unpacked("birds", "spring"), range(4)))
    (root,) = roots
    assert len(list(root.rglob("*.png"))) == records.height
    assert {path.name for path in root.parent.iterdir()} == {"spring", ".spring.lock"}


def test_missing__names_the_snapshots_there_are(snapshots: Snapshots, records: pl.DataFrame, images: Path) -> None:
    snapshots.create(snapshot(records), records, images)
    for verb in (snapshots.get, snapshots.records, snapshots.verify, snapshots.unpacked):
        with pytest.raises(MissingSnapshot) as raised:
            verb("birds", "autumn")
        assert str(raised.value) == (
            "birds/autumn: no such snapshot; there are spring; `kestrel data snapshot birds autumn` makes it, "
            "`kestrel data pull birds --snapshot autumn` gets it from a remote"
        )


@pytest.mark.parametrize("text", ["", "{}", '{"snapshot": 1, "files": {}}'])
def test_damaged_manifest__is_named(snapshots: Snapshots, records: pl.DataFrame, images: Path, text: str) -> None:
    folder = snapshots.create(snapshot(records), records, images)
    (folder / "snapshot.json").write_text(text)
    with pytest.raises(
        DamagedSnapshot, match=r"birds/spring/snapshot.json: not a snapshot's manifest .*restore the file"
    ):
        snapshots.get("birds", "spring")
