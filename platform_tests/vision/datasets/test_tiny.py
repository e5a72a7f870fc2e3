"""The tiny subset: small, stable, covering, and provably the bytes it says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from platform_assets.vision.datasets.tiny import ChangedImage, TinySubset, choose_tiny, copy_tiny, verify_tiny
from platform_tests.vision.pictures import png, write


def records(sizes: dict[tuple[str, str], int]) -> pl.DataFrame:
    """So many images for each (part, label)."""
    rows = [(split, label, number) for (split, label), size in sizes.items() for number in range(size)]
    return pl.DataFrame(
        {
            "image_id": [hashlib.sha256(repr(row).encode()).hexdigest() for row in rows],
            "path": [f"{split}/{label}/{number}.png" for split, label, number in rows],
            "label": [label for _, label, _ in rows],
            "split": [split for split, _, _ in rows],
        }
    )


def per_label(subset: TinySubset, split: str) -> dict[str, int]:
    return dict(subset.records.filter(split=split).group_by("label").len().iter_rows())


def test_choose__two_batches_a_part_with_classes_in_turn() -> None:
    frame = records({("train", "a"): 90, ("train", "b"): 5, ("val", "a"): 3, ("test", "b"): 50})
    tiny = choose_tiny(frame, batch_size=8)
    assert per_label(tiny, "train") == {"a": 11, "b": 5}
    assert per_label(tiny, "val") == {"a": 3}
    assert per_label(tiny, "test") == {"b": 16}
    assert tiny.label_coverage == {"train": 1.0, "val": 1.0, "test": 1.0}


def test_choose__more_classes_than_places_takes_the_most_frequent() -> None:
    frame = records({("train", f"c{label}"): 10 - label for label in range(8)} | {("val", "c7"): 9, ("test", "c0"): 1})
    tiny = choose_tiny(frame, batch_size=2)
    assert set(per_label(tiny, "train")) == {"c7", "c0", "c1", "c2"}  # c7: 12 images over all parts
    assert tiny.label_coverage == {"train": 0.5, "val": 1.0, "test": 1.0}


def test_choose__row_order_and_paths_do_not_matter() -> None:
    frame = records({("train", "a"): 40, ("train", "b"): 40, ("val", "a"): 9, ("test", "b"): 9})
    tiny = choose_tiny(frame, batch_size=4)
    assert_frame_equal(choose_tiny(frame.sample(fraction=1, shuffle=True, seed=1), batch_size=4).records, tiny.records)
    moved = choose_tiny(frame.with_columns(pl.format("new/{}", "path").alias("path")), batch_size=4)
    assert set(moved.records["image_id"]) == set(tiny.records["image_id"])


SIZES = st.dictionaries(
    st.tuples(st.sampled_from(["train", "val", "test"]), st.sampled_from("abcdefg")), st.integers(1, 9), min_size=1
)


@settings(max_examples=50)
@given(sizes=SIZES, batch_size=st.integers(1, 6))
def test_choose__fills_two_batches_and_shows_every_class_that_fits(
    sizes: dict[tuple[str, str], int], batch_size: int
) -> None:
    tiny = choose_tiny(records(sizes), batch_size=batch_size)
    totals = {label: sum(n for (_, other), n in sizes.items() if other == label) for _, label in sizes}
    for part, coverage in tiny.label_coverage.items():
        held = {label: n for (split, label), n in sizes.items() if split == part}
        shown = per_label(tiny, part)
        assert sum(shown.values()) == min(2 * batch_size, sum(held.values()))
        frequent = sorted(held, key=lambda label: (-totals[label], label))[: 2 * batch_size]
        assert sorted(shown) == sorted(frequent)
        assert coverage == (len(shown) / len(held) if held else 0.0)


@settings(max_examples=50)
@given(
    sizes=SIZES,
    batch_size=st.integers(1, 6),
    part=st.sampled_from(["train", "val", "test"]),
    label=st.sampled_from("abcdefgh"),
)
def test_choose__one_more_image_takes_the_place_of_at_most_one_in_each_part(
    sizes: dict[tuple[str, str], int], batch_size: int, part: str, label: str
) -> None:
    more = {**sizes, (part, label): sizes.get((part, label), 0) + 1}
    before, after = (choose_tiny(records(each), batch_size=batch_size).records for each in (sizes, more))
    for split in ("train", "val", "test"):
        stood, stands = (set(frame.filter(split=split)["image_id"]) for frame in (before, after))
        assert len(stood - stands) <= 1
        assert len(stands - stood) <= 1


def test_choose__leaked_copy_counts_once_in_each_part() -> None:
    frame = records({("train", "a"): 1, ("val", "a"): 1, ("test", "b"): 1})
    frame = pl.concat([frame, frame.with_columns(pl.format("copy/{}", "path").alias("path"))])
    assert choose_tiny(frame).records["path"].to_list() == [
        "copy/test/b/0.png",
        "copy/train/a/0.png",
        "copy/val/a/0.png",
    ]


def test_choose__part_without_images_covers_nothing() -> None:
    assert choose_tiny(records({("train", "a"): 2})).label_coverage == {"train": 1.0, "val": 0.0, "test": 0.0}


@pytest.fixture
def subset(tmp_path: Path) -> TinySubset:
    rows = [("train", "cat"), ("train", "dog"), ("val", "cat"), ("test", "dog")]
    for seed, (split, label) in enumerate(rows):
        write(tmp_path / "root", f"{split}/{label}/{seed}.png", png(seed))
    frame = pl.DataFrame(
        {
            "image_id": [hashlib.sha256(png(seed)).hexdigest() for seed in range(4)],
            "path": [f"{split}/{label}/{seed}.png" for seed, (split, label) in enumerate(rows)],
            "label": [label for _, label in rows],
            "split": [split for split, _ in rows],
            "bytes": [len(png(seed)) for seed in range(4)],
        }
    )
    return choose_tiny(frame)


def test_copy__files_under_their_own_paths_and_a_manifest(tmp_path: Path, subset: TinySubset) -> None:
    dest = tmp_path / "a" / "tiny"
    checksum = copy_tiny(subset, tmp_path / "root", dest)
    for path in subset.records["path"]:
        assert (dest / path).read_bytes() == (tmp_path / "root" / path).read_bytes()
    manifest = json.loads((dest / "manifest.json").read_text())
    assert manifest["checksum"] == checksum
    entry = {"path": "test/dog/3.png", "label": "dog", "split": "test", "bytes": len(png(3))}
    assert manifest["files"][0] == {**entry, "sha256": hashlib.sha256(png(3)).hexdigest()}
    assert verify_tiny(dest) == []
    assert [path.name for path in dest.parent.iterdir()] == ["tiny"]


def test_copy__again_leaves_the_folder_alone(tmp_path: Path, subset: TinySubset) -> None:
    dest = tmp_path / "tiny"
    first = copy_tiny(subset, tmp_path / "root", dest)
    inode = (dest / "manifest.json").stat().st_ino
    assert copy_tiny(subset, tmp_path / "root", dest) == first
    assert (dest / "manifest.json").stat().st_ino == inode


def test_copy__damaged_or_older_subset_is_replaced(tmp_path: Path, subset: TinySubset) -> None:
    dest = tmp_path / "tiny"
    first = copy_tiny(subset, tmp_path / "root", dest)
    (dest / "test/dog/3.png").unlink()
    write(dest, "left.png", png())
    assert copy_tiny(subset, tmp_path / "root", dest) == first
    assert verify_tiny(dest) == []
    fewer = TinySubset(records=subset.records.head(2), label_coverage=subset.label_coverage)
    assert copy_tiny(fewer, tmp_path / "root", dest) != first
    assert len(list(dest.rglob("*.png"))) == 2


def test_copy__changed_image_is_refused_and_leaves_nothing(tmp_path: Path, subset: TinySubset) -> None:
    write(tmp_path / "root", "val/cat/2.png", png(9))
    with pytest.raises(ChangedImage, match=r"val/cat/2\.png: its bytes give .* materialize the records again"):
        copy_tiny(subset, tmp_path / "root", tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_copy__image_that_is_gone_is_named(tmp_path: Path, subset: TinySubset) -> None:
    (tmp_path / "root/val/cat/2.png").unlink()
    with pytest.raises(ChangedImage, match=r"val/cat/2\.png: gone since the records were made; put it back"):
        copy_tiny(subset, tmp_path / "root", tmp_path / "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_checksum__follows_label_part_and_bytes(tmp_path: Path, subset: TinySubset) -> None:
    def checksum(frame: pl.DataFrame) -> str:
        other = TinySubset(records=frame, label_coverage=subset.label_coverage)
        return copy_tiny(other, tmp_path / "root", tmp_path / "tiny")

    frame = subset.records
    relabelled = frame.with_columns(pl.lit("cat").alias("label"))
    moved = frame.with_columns(pl.lit("train").alias("split"))
    assert checksum(frame) == checksum(frame.reverse())
    assert len({checksum(each) for each in (frame, relabelled, moved)}) == 3


def test_verify__names_every_problem(tmp_path: Path, subset: TinySubset) -> None:
    dest = tmp_path / "tiny"
    copy_tiny(subset, tmp_path / "root", dest)
    write(dest, "train/cat/0.png", png(7))
    (dest / "val/cat/2.png").unlink()
    write(dest, "val/cat/more.png", png())
    assert verify_tiny(dest) == [
        "train/cat/0.png: its bytes have changed",
        "val/cat/2.png: missing",
        "val/cat/more.png: not in the manifest",
    ]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["train/cat/0.png", "test/dog/3.png"]), data=st.data())
def test_verify__any_changed_byte_of_an_image(
    tmp_path: Path, subset: TinySubset, path: str, data: st.DataObject
) -> None:
    dest = tmp_path / "tiny"
    copy_tiny(subset, tmp_path / "root", dest)  # mends what the example before has damaged
    image = bytearray((dest / path).read_bytes())
    image[data.draw(st.integers(0, len(image) - 1))] ^= data.draw(st.integers(1, 255))
    (dest / path).write_bytes(image)
    assert verify_tiny(dest) == [f"{path}: its bytes have changed"]


@pytest.mark.parametrize("mask", [0x01, 0x2A], ids=["another character", "another blank"])
def test_verify__any_changed_byte_of_the_manifest(tmp_path: Path, subset: TinySubset, mask: int) -> None:
    """The sizes and blanks in the manifest could once be changed without anyone seeing it."""
    manifest = tmp_path / "tiny/manifest.json"
    one = TinySubset(records=subset.records.head(1), label_coverage=subset.label_coverage)
    copy_tiny(one, tmp_path / "root", manifest.parent)
    whole = manifest.read_bytes()
    for place in range(len(whole)):
        manifest.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
        assert verify_tiny(manifest.parent), f"byte {place} of the manifest"


def test_verify__edited_manifest(tmp_path: Path, subset: TinySubset) -> None:
    dest = tmp_path / "tiny"
    checksum = copy_tiny(subset, tmp_path / "root", dest)
    manifest = dest / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"label": "dog"', '"label": "cat"'))
    assert verify_tiny(dest) == [f"manifest.json: checksum {checksum[:12]} is not that of its entries"]
    manifest.write_text(manifest.read_text().replace("val/cat/2.png", "../root/val/cat/2.png"))
    assert "../root/val/cat/2.png: leaves the folder of the subset" in verify_tiny(dest)
    manifest.write_text("{}")
    assert "not a manifest" in verify_tiny(dest)[0]


def test_verify__absent_subset(tmp_path: Path) -> None:
    assert verify_tiny(tmp_path) == [f"{tmp_path / 'manifest.json'}: missing; materialize the tiny subset again"]
