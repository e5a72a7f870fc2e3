"""Reviews: decisions come back as they were written, damage is named by line, records change by them and by nothing else."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from platform_assets.vision.datasets.label_map import LabelMap, normal_label
from platform_assets.vision.quality.reviews import (
    BadReview,
    Override,
    apply_overrides,
    overrides_csv,
    read_overrides,
    to_review_csv,
)

IDS = [f"{number:064x}" for number in range(4)]
CLASSES = LabelMap(names=("cat", "dog", "=1+1"))

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
labels = texts.map(normal_label).filter(lambda label: bool(label) and label == normal_label(label))


@st.composite
def overrides(draw: st.DrawFn) -> list[Override]:
    found = []
    for number in draw(st.sets(st.integers(0, 2**255), max_size=5)):
        action = draw(st.sampled_from(["keep", "relabel", "exclude"]))
        found.append(
            Override(
                image_id=f"{number:064x}",
                action=action,
                label=draw(labels) if action == "relabel" else "",
                reviewer=draw(texts),
                reason=draw(texts),
                date=draw(st.sampled_from(["", "2026-11-25"])),
            )
        )
    return sorted(found, key=lambda each: each.image_id)


def records() -> pl.DataFrame:
    return pl.DataFrame({"image_id": [*IDS[:3], IDS[0]], "label": ["cat", "dog", "dog", "cat"], "split": list("abcd")})


def override(image: int, action: str, **more: str) -> Override:
    return Override.model_validate({"image_id": IDS[image], "action": action, **more})


@given(overrides())
@example([Override(image_id="0" * 64, action="keep", reviewer="'ada'", reason="-1")])
def test_overrides__are_read_as_they_were_written(written: list[Override]) -> None:
    with TemporaryDirectory() as folder:
        place = Path(folder, "overrides.csv")
        place.write_bytes(overrides_csv(written).encode())
        assert read_overrides(place) == written


def faults() -> pl.DataFrame:
    columns = {"image_id": IDS[:2], "path": ["a.png", "=b.png"], "split": ["train", None], "label": ["cat", "dog"]}
    return pl.DataFrame({**columns, "suggested": ["dog", "=1+1"], "score": [0.01, 0.5]})


def test_review__what_is_filled_in_comes_back_and_the_rest_is_skipped(tmp_path: Path) -> None:
    place = tmp_path / "to_review.csv"
    text = to_review_csv(faults())
    assert ",'=1+1," in text, "a spreadsheet would run it"
    rows = list(csv.DictReader(text.splitlines()))
    rows[1] |= {"action": "relabel", "label": rows[1]["suggested"], "reviewer": "ada"}
    with place.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert read_overrides(place) == [override(1, "relabel", label="=1+1", reviewer="ada")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{IDS[0]},repair,", r"line 3: action: Input should be 'keep', 'relabel' or 'exclude'"),
        (f"{IDS[0]},relabel,", r"line 3: row: .*give a label with relabel"),
        (f"{IDS[0]},exclude,cat", r"line 3: row: .*and only then"),
        ("12,keep,", r"line 3: image_id: .*found '12'"),
        (f"{IDS[0]},keep", "line 3: not 3 cells"),
        (f"{IDS[1]},keep,", "line 3: image 0.*1 is decided on already at 2"),
        (f'{IDS[0]},keep,"', "unexpected end of data; save it as a CSV"),
    ],
)
def test_overrides__a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    place = tmp_path / "overrides.csv"
    place.write_text(f"image_id,action,label\n{IDS[1]},keep,\n{line}")
    with pytest.raises(BadReview, match=says):
        read_overrides(place)


def test_overrides__a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "overrides.csv"
    place.write_text("image;label\n")
    with pytest.raises(BadReview, match=r"line 1 lacks the columns \['action', 'image_id', 'label'\]"):
        read_overrides(place)
    with pytest.raises(BadReview, match="give a CSV in UTF-8"):
        read_overrides(tmp_path / "absent.csv")


def test_apply__relabels_and_excludes_every_row_of_the_image() -> None:
    decided = [override(0, "relabel", label="dog"), override(1, "exclude"), override(2, "keep")]
    rows, report = apply_overrides(records(), decided, CLASSES)
    assert rows.rows() == [(IDS[0], "dog", "a"), (IDS[2], "dog", "c"), (IDS[0], "dog", "d")]
    assert report.select("action", "applied", "before", "rows").rows() == [
        *[("relabel", True, "cat", 2), ("exclude", True, "dog", 1), ("keep", True, "dog", 1)]
    ]


def test_apply__what_no_longer_matches_changes_nothing_and_is_reported() -> None:
    rows, report = apply_overrides(records(), [override(3, "exclude"), override(0, "relabel", label="dgo")], CLASSES)
    assert_frame_equal(rows, records())
    assert report["applied"].to_list() == [False, False]
    assert report["detail"].to_list() == [
        "no such image in this version; delete the line, or put the file back",
        "label 'dgo' is not one of the 3 classes; add it to the class list or correct the line",
    ]


def test_apply__twice_is_as_once() -> None:
    decided = [override(0, "relabel", label="dog")]
    once, _ = apply_overrides(records(), decided, CLASSES.names)
    again, report = apply_overrides(once, decided, CLASSES.names)
    assert_frame_equal(once, again)
    assert report["applied"].all()


def test_apply__without_decisions() -> None:
    rows, report = apply_overrides(records(), [], CLASSES)
    assert_frame_equal(rows, records())
    assert report.is_empty()
