"""Datasets as a user materializes them: what is on disk, what the UI shows, and every check seen to fail."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from platform_assets.stores.tables import Tables
from platform_tests.components.projects import RECORDS, Project, dataset_yaml, failed_checks, failure, metadata


def _tables(project: Project) -> Tables:
    return Tables(project.data / "tables")


def test_dataset__every_asset_is_made_and_worth_looking_at(photos: Project) -> None:
    result = photos.materialize("group:photos")
    assert not failed_checks(result)
    records = _tables(photos).read(["photos", "records"])
    assert records.height == 60
    assert records["split"].value_counts(sort=True).rows() == [("train", 30), ("test", 15), ("val", 15)]
    for asset in ("source", "records", "rejected", "label_map", "tiny_subset", "profile", "data_card"):
        assert metadata(result, f"photos/{asset}"), asset
    assert "data:image/" in metadata(result, "photos/profile")["contact_sheet"]
    assert "CC0-1.0".lower() in (photos.data / "cards/photos/data_card.md").read_text().lower()


def test_dataset__again_has_the_same_versions(photos: Project) -> None:
    def versions() -> dict[str, str]:
        events = photos.materialize("group:photos").get_asset_materialization_events()
        return {str(e.asset_key): e.materialization.tags["dagster/data_version"] for e in events}

    assert versions() == versions()


def test_dataset__bytes_in_two_official_parts_fail_the_leak_check(photos: Project, tmp_path: Path) -> None:
    root = tmp_path / "official"
    for part in ("train", "val", "test"):
        shutil.copytree(tmp_path / "images", root / part)
    rule = {"kind": "official"}
    photos.write("photos", dataset_yaml(root, split=rule))
    result = photos.materialize("group:photos", raises=False)
    assert not result.success
    assert "60 shared between parts" in (failed_checks(result)["records_have_no_split_leak"] or "")
    assert "photos__tiny_subset" not in {event.step_key for event in result.all_events if event.is_step_success}


def test_dataset__too_many_rejected_files_fail_with_the_worst_reasons(photos: Project, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "images/red" / f"broken{number}.png").write_bytes(b"not a picture")
    (tmp_path / "images/red/empty.png").touch()
    result = photos.materialize("group:photos", raises=False)
    assert not result.success
    said = failed_checks(result)["rejected_fraction_is_acceptable"] or ""
    assert "6.25% of the files rejected, 1.00% allowed" in said
    assert "broken0.png" in said
    rejected = _tables(photos).read(["photos", "rejected"])
    assert rejected.filter(pl.col("path") == "red/empty.png")["reason"].to_list() == ["empty_file"]


def test_source__kinds_of_files_are_counted_whatever_the_case_of_their_endings(photos: Project, tmp_path: Path) -> None:
    red = tmp_path / "images/red"
    (red / "000.png").rename(red / "000.PNG")
    (red / "001.png").rename(red / "no_ending")
    kinds = metadata(photos.materialize('key:"photos/source"'), "photos/source")["kinds_of_files"]
    assert [record.data for record in kinds.records] == [
        {"suffix": ".png", "files": 59},
        {"suffix": "none", "files": 1},
    ]


def test_dataset__a_class_that_a_part_lacks_is_a_warning(photos: Project, tmp_path: Path) -> None:
    for path in sorted((tmp_path / "images/red").iterdir())[2:]:
        path.unlink()
    result = photos.materialize("group:photos")
    assert "records_cover_every_class" in failed_checks(result)


def test_tiny_subset__one_changed_byte_fails_its_check(photos: Project) -> None:
    photos.materialize("group:photos")
    victim = next((photos.data / "tiny/photos").rglob("*.png"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    result = photos.run_check("tiny_subset_is_unchanged")
    assert "its bytes have changed" in (failed_checks(result)["tiny_subset_is_unchanged"] or "")


@pytest.mark.parametrize("classes", [0, 1])
def test_dataset__without_two_classes_says_so(photos: Project, tmp_path: Path, classes: int) -> None:
    for folder in sorted((tmp_path / "images").iterdir())[classes:]:
        shutil.rmtree(folder)
    result = photos.materialize("group:photos", raises=False)
    assert "class" in failure(result)
    assert not _tables(photos).exists(["photos", "records"])


def test_dataset__decodes_ahead_for_the_experiments_it_names(
    photos: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos.write("photos", dataset_yaml(tmp_path / "images", decode_for=["first"]))
    assert "decoded_ahead" not in metadata(photos.materialize(RECORDS), "photos/records")  # no room is given yet
    shutil.rmtree(photos.data / "tables")
    monkeypatch.setenv("KESTREL_PIXEL_CACHE_GB", "1")
    (row,) = metadata(photos.materialize(RECORDS), "photos/records")["decoded_ahead"].records
    # The network's size, which its crops are cut from too; the probe reads files by itself.
    assert row.data == {
        **{"image_size_px": 32, "resize": "squash", "crop_fraction": 1.0},
        **{"images": 60, "in_the_cache": 60},
    }
    photos.write("photos", dataset_yaml(tmp_path / "images", decode_for=["frist"]))
    assert "decode_for names 'frist', which is no experiment on this dataset; there are first" in failure(
        photos.materialize(RECORDS, raises=False)
    )
