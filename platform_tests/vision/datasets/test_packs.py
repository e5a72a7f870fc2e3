"""Packs: the same bytes out as in, the same files for the same content, and damage that is named."""

from __future__ import annotations

import hashlib
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from platform_assets.vision.datasets.packs import MANIFEST, DamagedPacks, Packs, pack
from platform_assets.vision.formats.copies import CannotWrite
from platform_tests.vision.pictures import png, write

SIDE_KB = 100


def records_of(files: dict[str, bytes], root: Path) -> pl.DataFrame:
    """Writes the files and lists them, the classes and parts in turn."""
    for path, data in files.items():
        write(root, path, data)
    rows = [
        {
            "image_id": hashlib.sha256(data).hexdigest(),
            "path": path,
            "label": path.split("/")[0],
            "split": ("train", "test")[number % 2],
            "bytes": len(data),
        }
        for number, (path, data) in enumerate(files.items())
    ]
    schema = {"image_id": pl.String, "path": pl.String, "label": pl.String, "split": pl.String, "bytes": pl.Int64}
    return pl.DataFrame(rows, schema=schema)


@pytest.fixture
def records(tmp_path: Path) -> pl.DataFrame:
    return records_of({f"class_{number % 3}/{number:02d}.PNG": png(number) for number in range(30)}, tmp_path / "root")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FILES = st.dictionaries(
    st.from_regex(r"[a-z]{1,3}/[a-zé ]{1,8}\.(png|jpg)", fullmatch=True),
    st.binary(max_size=2000),
    min_size=1,
    max_size=20,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=FILES)
def test_pack__gives_back_every_byte_by_id_by_tar_and_by_path(
    files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = tmp_path_factory.mktemp("packed")
    frame = records_of(files, here / "root")
    packs = pack(frame, here / "root", here / "packs")
    assert packs.records.equals(frame.sort("path"))
    for image_id, path in frame.select("image_id", "path").iter_rows():
        assert packs.read(image_id) == files[path]
    in_tar = {}
    for shard in (here / "packs").glob("*.tar"):
        with tarfile.open(shard) as tar:
            in_tar |= {member.name[:64]: tar.extractfile(member).read() for member in tar}
    assert in_tar == {hashlib.sha256(data).hexdigest(): data for data in files.values()}
    packs.unpack(here / "unpacked")
    assert {path: (here / "unpacked" / path).read_bytes() for path in files} == files
    assert packs.verify() == []


def test_pack__the_same_records_in_any_order_give_the_same_files(records: pl.DataFrame, tmp_path: Path) -> None:
    pack(records, tmp_path / "root", tmp_path / "one", shard_mb=1)
    pack(records.sample(fraction=1, shuffle=True, seed=3), tmp_path / "root", tmp_path / "other", shard_mb=1)
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_pack__tells_how_far_it_is(records: pl.DataFrame, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    pack(records, tmp_path / "root", tmp_path / "packs", on_progress=lambda done, total: heard.append((done, total)))
    assert heard == [(done, 30) for done in range(1, 31)]


def test_pack__equal_bytes_are_kept_once_and_listed_twice(tmp_path: Path) -> None:
    records = records_of({"a/1.png": png(1), "b/2.png": png(1)}, tmp_path / "root")
    packs = pack(records, tmp_path / "root", tmp_path / "packs")
    assert packs.manifest["path"].to_list() == ["a/1.png", "b/2.png"]
    assert packs.manifest["offset"].n_unique() == 1
    packs.unpack(tmp_path / "out")
    assert (tmp_path / "out/b/2.png").read_bytes() == png(1)


def test_pack__shards_keep_to_their_size_and_to_the_bits_of_their_name(tmp_path: Path) -> None:
    data = {f"a/{number}.bin": bytes([number]) * SIDE_KB * 1000 for number in range(60)}
    packs = pack(records_of(data, tmp_path / "root"), tmp_path / "root", tmp_path / "packs", shard_mb=1)
    shards = sorted((tmp_path / "packs").glob("*.tar"))
    assert len(shards) >= 6
    assert max(shard.stat().st_size for shard in shards) <= 1_000_000
    for image_id, shard in packs.manifest.select("image_id", "shard").iter_rows():
        assert f"{int(image_id, 16):0256b}".startswith(shard.removeprefix("shard-").removesuffix(".tar"))


def test_pack__a_new_image_changes_one_shard(tmp_path: Path) -> None:
    data = {f"a/{number}.bin": bytes([number]) * SIDE_KB * 1000 for number in range(60)}
    before = pack(records_of(data, tmp_path / "root"), tmp_path / "root", tmp_path / "before", shard_mb=1)
    added = {**data, "a/0000 first by path.bin": b"new" * 100}
    pack(records_of(added, tmp_path / "root"), tmp_path / "root", tmp_path / "after", shard_mb=1)
    old, new = content(before.folder), content(tmp_path / "after")
    assert len({name for name in old if old[name] != new.get(name)} - {MANIFEST}) == 1


def test_pack__an_image_over_the_limit_has_a_shard_of_its_own(tmp_path: Path) -> None:
    files = {"a/large.bin": b"x" * 1_500_000, "a/small.bin": b"y"}
    packs = pack(records_of(files, tmp_path / "root"), tmp_path / "root", tmp_path / "packs", shard_mb=1)
    assert packs.manifest["shard"].n_unique() == 2
    assert packs.verify() == []


def test_read__many_threads_at_once(records: pl.DataFrame, tmp_path: Path) -> None:
    packs = pack(records, tmp_path / "root", tmp_path / "packs")
    asked = [*records["image_id"]] * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(packs.read, asked))
    assert [hashlib.sha256(data).hexdigest() for data in found] == asked


def test_pack__a_file_that_changed_since_the_records_is_named_and_nothing_is_left(
    records: pl.DataFrame, tmp_path: Path
) -> None:
    path = records["path"][7]
    (tmp_path / "root" / path).write_bytes(png(99))
    with pytest.raises(CannotWrite) as raised:
        pack(records, tmp_path / "root", tmp_path / "packs")
    assert str(raised.value).startswith(f"{tmp_path / 'root' / path}: its bytes give")
    assert str(raised.value).endswith("materialize the records again")
    (tmp_path / "root" / path).unlink()
    with pytest.raises(CannotWrite, match="put the file back, or materialize the records again"):
        pack(records, tmp_path / "root", tmp_path / "packs")
    assert {place.name for place in tmp_path.iterdir()} == {"root"}


def test_pack__refuses_what_it_cannot_keep(records: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="there are no records to pack"):
        pack(records.clear(), tmp_path / "root", tmp_path / "packs")
    with pytest.raises(CannotWrite, match=r"columns \['shard'\] have names that the manifest uses itself"):
        pack(records.with_columns(shard=pl.lit("")), tmp_path / "root", tmp_path / "packs")
    write(tmp_path / "packs", "mine.txt", "x")
    with pytest.raises(CannotWrite, match="not an empty folder; name a new one"):
        pack(records, tmp_path / "root", tmp_path / "packs")
    assert content(tmp_path / "packs") == {"mine.txt": b"x"}


def test_damage__is_named_by_read_and_by_verify(tmp_path: Path) -> None:
    data = {f"a/{number}.bin": bytes([number]) * SIDE_KB * 1000 for number in range(40)}
    packs = pack(records_of(data, tmp_path / "root"), tmp_path / "root", tmp_path / "packs", shard_mb=1)
    first, last = packs.manifest.row(0, named=True), packs.manifest.sort("shard").row(-1, named=True)
    damaged = bytearray((packs.folder / first["shard"]).read_bytes())
    damaged[first["offset"] + 5] ^= 1
    (packs.folder / first["shard"]).write_bytes(damaged)
    with pytest.raises(DamagedPacks, match=f"the bytes at {first['offset']} are not image {first['image_id']}"):
        packs.read(first["image_id"])
    (packs.folder / last["shard"]).unlink()
    with pytest.raises(DamagedPacks, match=r"No such file.*restore the shard"):
        packs.read(last["image_id"])
    lost = packs.manifest.filter(shard=last["shard"])["image_id"]
    assert set(packs.verify()) == {
        f"{first['shard']}: 1 images, the first is {first['image_id']}",
        f"{last['shard']}: {len(lost)} images, the first is {min(lost)}",
    }
    with pytest.raises(DamagedPacks):
        packs.unpack(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_manifest__that_is_no_parquet_file_or_leaves_its_folder(records: pl.DataFrame, tmp_path: Path) -> None:
    packs = pack(records, tmp_path / "root", tmp_path / "packs")
    escaping = packs.manifest.with_columns(
        path=pl.when(pl.col("path") == records["path"][3]).then(pl.lit("../x")).otherwise("path")
    )
    escaping.write_parquet(packs.folder / MANIFEST)
    with pytest.raises(ValueError, match=r"'../x' leaves the source"):
        Packs(packs.folder).unpack(tmp_path / "out")
    assert not (tmp_path / "x").exists()
    (packs.folder / MANIFEST).write_bytes(b"PAR1 no more")
    with pytest.raises(DamagedPacks, match=r"manifest.parquet: not a readable manifest .*; restore the folder"):
        Packs(packs.folder).read("0" * 64)


def test_read__a_stranger_is_a_key_error(records: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        pack(records, tmp_path / "root", tmp_path / "packs").read("f" * 64)
