"""Tables: what was written is read, and a kept version never changes."""

from __future__ import annotations

import threading
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from platform_assets.stores.tables import BadTableName, DamagedTable, MissingTable, TableConflict, Tables

RECORDS = ("elpv", "records")
METRICS = ("elpv", "binary", "metrics")


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path / "tab'les [x]*")  # characters that globs and SQL read otherwise


def records(*labels: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "path": [f"{index}.png" for index in range(len(labels))],
            "label": labels,
            "group": [None] * len(labels),
            "pixel_mean": [[0.1, 0.2, 0.3]] * len(labels),
        },
        schema={"path": pl.String, "label": pl.String, "group": pl.String, "pixel_mean": pl.Array(pl.Float32, 3)},
    )


def test_write__same_frame_comes_back_with_its_types(tables: Tables) -> None:
    path = tables.write(RECORDS, records("good", "bad"))
    assert path == tables.root / "elpv" / "records" / "all.parquet"
    assert_frame_equal(tables.read(RECORDS), records("good", "bad"))


def test_write__replaces_the_table_and_leaves_no_other_file(tables: Tables) -> None:
    path = tables.write(RECORDS, records("good"))
    tables.write(RECORDS, records("bad", "bad"))
    assert tables.read(RECORDS)["label"].to_list() == ["bad", "bad"]
    assert list(path.parent.iterdir()) == [path]


def test_write__failed_write_keeps_the_old_table(tables: Tables) -> None:
    path = tables.write(RECORDS, records("good"))
    with pytest.raises(pl.exceptions.PolarsError):
        tables.write(RECORDS, pl.DataFrame({"x": [object()]}))
    assert_frame_equal(tables.read(RECORDS), records("good"))
    assert list(path.parent.iterdir()) == [path]


def test_write__reader_beside_a_writer_sees_one_whole_table_or_the_other(tables: Tables) -> None:
    sizes = (20_000, 30_000)
    tables.write(RECORDS, pl.DataFrame({"row": range(sizes[0])}))
    frames = [pl.DataFrame({"row": range(size)}) for size in sizes]
    writer = threading.Thread(target=lambda: [tables.write(RECORDS, frame) for frame in frames * 20])
    writer.start()
    seen = {tables.read(RECORDS).height}
    while writer.is_alive():
        seen.add(tables.read(RECORDS).height)
    assert seen <= set(sizes)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(values=st.lists(st.floats(width=32)), words=st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_write__every_float32_and_text_comes_back_exactly(
    tables: Tables, values: list[float], words: list[str]
) -> None:
    frame = pl.DataFrame(
        {"logits": [values], "words": [words]}, schema={"logits": pl.List(pl.Float32), "words": pl.List(pl.String)}
    )
    tables.write(METRICS, frame, "t")
    assert_frame_equal(tables.read(METRICS, "t"), frame, check_exact=True)


def test_read__columns_are_those_that_the_table_has_in_its_order(tables: Tables) -> None:
    tables.write_version(RECORDS, "v1", records("good", "bad"))
    for version in (None, "v1"):
        found = tables.read(RECORDS, version=version, columns=["label", "weight", "path"])
        assert_frame_equal(found, records("good", "bad").select("path", "label"))
    assert tables.read(RECORDS, columns=[]).width == 0


def test_read__missing_table_names_the_asset_and_the_command(tables: Tables) -> None:
    with pytest.raises(MissingTable, match=r"elpv/records: no table at .* --select 'elpv/records'$"):
        tables.read(RECORDS)
    with pytest.raises(MissingTable, match=r"partition probe__s0: .* --partition 'probe__s0'$"):
        tables.read(METRICS, "probe__s0")
    with pytest.raises(MissingTable, match="elpv/binary/metrics"):
        tables.read_all(METRICS)
    assert not tables.exists(RECORDS)


def test_read__cut_off_file_is_named_damaged(tables: Tables) -> None:
    path = tables.write(METRICS, records("good"), "probe__s0")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedTable, match=r"not a whole Parquet file .* --partition 'probe__s0'"):
        tables.read(METRICS, "probe__s0")


def test_read_all__partitions_stand_in_order_and_missing_columns_are_null(tables: Tables) -> None:
    tables.write(METRICS, pl.DataFrame({"trial": ["s1"], "top1": [0.5], "ece": [0.1]}), "probe__s1")
    tables.write(METRICS, pl.DataFrame({"trial": ["s0"], "top1": [1]}), "probe__s0")
    frame = tables.read_all(METRICS)
    assert frame.to_dict(as_series=False) == {"trial": ["s0", "s1"], "top1": [1.0, 0.5], "ece": [None, 0.1]}
    assert tables.partitions(METRICS) == ["probe__s0", "probe__s1"]
    assert tables.exists(METRICS, "probe__s0")
    assert not tables.exists(METRICS, "probe__s2")


def test_write_version__older_version_stays_readable(tables: Tables) -> None:
    tables.write_version(RECORDS, "v1", records("good"))
    tables.write_version(RECORDS, "v2", records("good", "bad"))
    assert_frame_equal(tables.read(RECORDS, version="v1"), records("good"))
    assert_frame_equal(tables.read(RECORDS), records("good", "bad"))
    assert tables.current_version(RECORDS) == "v2"


def test_write_version__same_rows_again_make_it_current(tables: Tables) -> None:
    tables.write_version(RECORDS, "v1", records("good"))
    tables.write_version(RECORDS, "v2", records("bad"))
    tables.write_version(RECORDS, "v1", records("good"))
    assert tables.current_version(RECORDS) == "v1"


def test_write_version__other_rows_are_refused_and_change_nothing(tables: Tables) -> None:
    tables.write_version(RECORDS, "v1", records("good"))
    with pytest.raises(TableConflict, match="version v1 exists with other rows"):
        tables.write_version(RECORDS, "v1", records("bad"))
    assert_frame_equal(tables.read(RECORDS), records("good"))


def test_write_version__another_column_type_is_another_table(tables: Tables) -> None:
    tables.write_version(RECORDS, "v1", pl.DataFrame({"width": [1]}, schema={"width": pl.Int32}))
    with pytest.raises(TableConflict):
        tables.write_version(RECORDS, "v1", pl.DataFrame({"width": [1]}, schema={"width": pl.Int64}))


def test_current_version__none_for_a_table_without_one(tables: Tables) -> None:
    with pytest.raises(MissingTable):
        tables.current_version(RECORDS)
    tables.write(RECORDS, records("good"))
    assert tables.current_version(RECORDS) is None


@pytest.mark.parametrize("part", ["..", "", "a/b", "_x", ".x", "a|b", "a b"])
def test_write__name_that_leaves_the_root_is_refused(tables: Tables, part: str) -> None:
    with pytest.raises(BadTableName):
        tables.write(("elpv", part), records("good"))
    with pytest.raises(BadTableName):
        tables.write_version(RECORDS, part, records("good"))
    if part:
        with pytest.raises(BadTableName):
            tables.write(RECORDS, records("good"), part)


def test_write__reserved_names_are_refused(tables: Tables) -> None:
    with pytest.raises(BadTableName, match="rename the partition"):
        tables.write(RECORDS, records("good"), "all")
    with pytest.raises(BadTableName, match="versions"):
        tables.write(("elpv", "versions"), records("good"))
    with pytest.raises(BadTableName, match="sequence"):
        tables.write("elpv", records("good"))
