"""The profile page: it stands alone, shows what it is given, and takes no text for markup."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import polars as pl
import pytest

from platform_assets.vision.cards.profile_page import ProfilePageFacts, profile_page
from platform_assets.vision.datasets.label_map import LabelMap
from platform_assets.vision.datasets.profile import profile
from platform_assets.vision.quality.findings import Findings
from platform_tests.vision.cards.pages import CHROMIUM, Elements, browse, require_accessible, require_alone, with_script
from platform_tests.vision.pictures import encoded, noise

EVIL = '<script>document.title="owned"</script>"\' onerror=x <img src=https://evil.example/x.png>'
LABELS = ["apple", EVIL, "pear"]


def _file(path: str) -> bytes:
    return encoded(noise(int(path.rsplit("/", 1)[1].split(".")[0]), width=40, height=30))


def _records(counts: tuple[int, ...] = (5, 3, 2)) -> pl.DataFrame:
    labels = [label for label, count in zip(LABELS, counts, strict=True) for _ in range(count)]
    rows = len(labels)
    return pl.DataFrame(
        {
            "image_id": [f"{(7 * i) % rows:064x}" for i in range(rows)],
            "path": [f"{EVIL if i == 5 else 'in'}/{i}.png" for i in range(rows)],
            "label": labels,
            "split": ["train" if i % 2 else "test" for i in range(rows)],
            "width": [40] * (rows - 1) + [90],
            "height": [30] * rows,
            "mode": ["RGB"] * rows,
            "format": ["PNG"] * rows,
            "bytes": [1000] * rows,
            "pixel_mean": [[0.25, 0.5, 0.75]] * rows,
            "pixel_std": [[0.1, 0.2, 0.3]] * rows,
        },
        schema_overrides={"pixel_mean": pl.Array(pl.Float32, 3), "pixel_std": pl.Array(pl.Float32, 3)},
    )


def _facts(**changed: object) -> ProfilePageFacts:
    records = _records()
    facts: dict[str, object] = {
        "name": "fruit",
        "description": "Fruit & <b>more</b>.",
        "licence": "CC-BY-4.0",
        "citation": None,
        "version": "0123456789abcdef",
        "made_from": {"source": {"kind": "folder", "path": "</pre><script>1</script>"}},
        "label_map": LabelMap(names=tuple(sorted(LABELS))),
        "profile": profile(records),
        "records": records,
        "rejected": pl.DataFrame(
            {"path": ["z.jpg", EVIL], "reason": ["truncated"] * 2, "detail": ["<i>cut</i>", ""]},
        ),
    }
    return ProfilePageFacts(**{**facts, **changed})  # type: ignore[arg-type]


def _findings() -> Findings:
    records = _records()
    return Findings(
        near_duplicates=records.select("image_id", near_group=pl.Series(["g", "g"] + [None] * 8)),
        image_faults=records.select("image_id", "path", fault=pl.lit("blurry"), score=pl.lit(0.125)).head(3),
        label_faults=records.select("image_id", "path", "label", suggested=pl.lit(EVIL), score=pl.lit(0.03)).head(2),
    )


@pytest.fixture(scope="module")
def page() -> str:
    return profile_page(_facts(findings=_findings()), _file)


def test_page__names_no_resource_but_its_own(page: str) -> None:
    require_alone(page)


def test_page__text_from_data_is_text(page: str) -> None:
    elements = Elements(page)
    assert len(elements.named("script")) == 1
    assert len(elements.named("b")) == len(elements.named("i")) == 0
    assert elements.text.count('<script>document.title="owned"</script>') >= 5
    assert "Fruit & <b>more</b>." in elements.text
    assert "<i>cut</i>" in elements.text
    assert "</pre><script>1</script>" in elements.text


def test_page__runs_no_script_but_its_own(page: str) -> None:
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[-1]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in page


def test_page__every_picture_and_column_has_a_name(page: str) -> None:
    elements = Elements(page)
    pictures = elements.named("img")
    assert len(pictures) == 10 + 2 + 3 + 2
    assert all(picture["alt"] for picture in pictures)
    assert "apple, blurry, score 0.1250: in/0.png" not in [picture["alt"] for picture in pictures]
    assert "blurry, score 0.1250: in/0.png" in [picture["alt"] for picture in pictures]
    require_accessible(page)


def test_page__numbers(page: str) -> None:
    text = Elements(page).text
    for said in (
        *("apple 2 3 5", "No image in val of 3 classes", "apple 5 of 5", "width 40 40 90", "height 30 30 30"),
        *("red 0.2500 0.1000", "PNG RGB 10", "10:9 to 3:2 9", "wider than 2:1 1", "40 x 30 9", "90 x 30 1"),
        *("truncated 2", "z.jpg", "no image stands in more than one part", "Near duplicates: 1 groups."),
        *("2 images in train and test", "blurry 3", "3 of 3", "is apple", "0.0300", "CC-BY-4.0", "0123456789abcdef"),
        *("kestrel materialize fruit", LabelMap(names=tuple(sorted(LABELS))).checksum),
    ):
        assert said in text


def test_page__what_was_not_looked_for_and_what_was_not_found() -> None:
    rejected = pl.DataFrame(schema=dict.fromkeys(("path", "reason", "detail"), pl.String))
    bare = Elements(profile_page(_facts(rejected=rejected, licence=None), _file)).text
    assert bare.count("Not looked for.") == 2
    assert "Near duplicates: not looked for." in bare
    assert "Every file was taken in." in bare
    assert "id: no licence is stated; give an SPDX id" in bare
    empty = {name: frame.clear() for name, frame in _findings() if frame is not None}
    nothing = Elements(profile_page(_facts(findings=Findings(**empty)), _file)).text
    assert nothing.count("None found.") == 2
    assert "Near duplicates: 0 groups." in nothing


def test_page__leaks_and_copies_are_counted() -> None:
    records = _records()
    leaked = pl.concat([records, records.head(2).with_columns(split=pl.lit("val"))])
    rejected = pl.DataFrame({"path": ["a", "b"], "reason": ["duplicate_bytes", "truncated"], "detail": ["", ""]})
    text = Elements(profile_page(_facts(records=leaked, profile=profile(leaked), rejected=rejected), _file)).text
    assert "2 images stand in more than one part." in text
    assert "1 copies were not taken in." in text


def test_page__row_order_does_not_matter(page: str) -> None:
    records = _records().reverse()
    findings = _findings()
    assert profile_page(_facts(records=records, profile=profile(records), findings=findings), _file) == page


def test_page__many_classes_are_bounded_and_what_is_left_out_is_said() -> None:
    one = _records().head(1)
    records = pl.concat([one.with_columns(label=pl.lit(f"c{i:04}"), image_id=pl.lit(f"{i:064x}")) for i in range(1003)])
    names = LabelMap.from_labels(records["label"])
    page = profile_page(_facts(records=records, profile=profile(records), label_map=names), _file)
    text = Elements(page).text
    assert len(page) < 3_000_000
    assert "The 100 largest classes; 903 smaller ones are left out." in text
    assert "1,000 of 1,003 classes" in text
    assert "3 smaller classes are left out here." in text


# Clicks on the heads of class, class, total and total; after each the title gets the first letters of the rows.
CLICKS = """
for (const head of [0, 0, 3, 3]) {
  document.querySelectorAll("th[data-sort] button")[head].click();
  const rows = [...document.querySelector("tbody").rows];
  document.title += " " + rows.map((row) => row.cells[0].textContent[0]).join("");
}
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_page__in_a_browser_it_sorts_says_nothing_and_asks_for_nothing(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(with_script(page, CLICKS), encoding="utf-8")
    dom, console, asked = browse(tmp_path / "page.html")
    assert console == []
    assert asked == set()
    assert "<title>fruit, 0123456789abcdef &lt;ap pa&lt; a&lt;p p&lt;a</title>" in dom
    heads = [head for head in Elements(dom).named("th") if "data-sort" in head]
    assert [head.get("aria-sort") for head in heads[:4]] == [None, None, None, "ascending"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_browser__sees_a_page_that_asks_and_complains(tmp_path: Path) -> None:
    """What the test above relies on."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('oh'); nothing.here</script>")
    _, console, asked = browse(bad)
    assert len([line for line in console if "oh" in line or "nothing is not defined" in line]) == 2
    assert "http://127.0.0.1:9/x.png" in asked
