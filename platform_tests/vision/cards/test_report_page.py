"""The report page: it stands alone, says what the tables say, sorts, and takes no text for markup."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform_assets.vision.cards.report_page import as_code, report_page
from platform_tests.vision.cards.pages import CHROMIUM, Elements, browse, require_accessible, require_alone, with_script
from platform_tests.vision.cards.reports import EVIL, board, facts, load, shown, trials


@pytest.fixture(scope="module")
def page() -> str:
    return report_page(facts(), load)


def test_report__stands_alone_and_can_be_read_without_eyes(page: str) -> None:
    require_alone(page)
    require_accessible(page)
    assert len(page) < 100_000


def test_report__text_from_data_is_text(page: str) -> None:
    elements = Elements(page)
    assert len(elements.named("script")) == 1
    assert not elements.named("b")
    assert elements.text.count('<script>document.title="owned"</script>') >= 5
    assert "Fruit & <b>more</b>." in elements.text


def test_report__says_what_the_tables_say(page: str) -> None:
    text = Elements(page).text
    for said in (
        *("1 v0 scratch, baseline_cnn, 32 px 0.9000 0.8050 ± 0.0070 0.7000 to 0.8500", "+0.0100 0.03 0.8000, 0.8100"),
        *("v1 baseline", "0.7990, 0.8090 1,200,000 11.0", "v0 differs from v1 : +0.0100 top1, p = 0.03"),
        *(
            "v0__s1 is kept : top1 0.8 against 0.9.",
            "fruit_first version 3",
            "metrics.metrics_beat_the_majority_class no",
        ),
        *("exports.export_matches_its_checkpoint not evaluated", "apple 4 7 0.5714 1.0000 0.7273"),
        *("pear 4 1 1.0000 0.2500 0.4000", "The 4 wrong predictions on test that v0__s1 was surest of."),
        *("is pear 100 % apple", "v0__s1 0.9000 0.8100", "0000000000000001", "gpu_name none", "torch_version 2.15.0"),
        *("git checkout " + "a" * 40, "kestrel materialize fruit/first", "0123456789abcdef"),
    ):
        assert said in text, said
    assert "The trials were made in" not in text


def test_report__says_over_what_intervals_are_drawn(page: str) -> None:
    """It said images where whole groups had been drawn."""
    assert "bootstrapped over the images of test;" in Elements(page).text
    test = shown().test.model_copy(update={"units": 5})
    grouped = report_page(facts(shown=shown(test=test)), load)
    assert "bootstrapped over the 5 groups of the images of test;" in Elements(grouped).text


def test_report__every_mistake_and_view_is_a_picture_inside(page: str) -> None:
    elements = Elements(page)
    pictures = elements.named("img")
    assert len(pictures) == 4 + 2
    assert all((picture["src"] or "").startswith("data:image/") for picture in pictures)
    assert pictures[0]["alt"] == "is pear, predicted " + EVIL + " with confidence 1.00: in/11.png"
    charts = elements.named("svg")
    assert [chart["aria-label"] for chart in charts] == [
        f"val top1 by epoch: v0__s0 ends at 0.6000, best 0.7000; {EVIL} ends at 0.4000, best 0.4000."
    ]
    assert len(elements.named("polyline")) == 2


def test_report__what_there_is_not_is_said() -> None:
    right = shown()
    bare = report_page(
        facts(
            serving=None,
            charts=(),
            shown=right.model_copy(update={"mistakes": right.mistakes.clear(), "pictures": {}}),
            env_hashes=("a" * 64, "b" * 64),
        ),
        load,
    )
    text = Elements(bare).text
    assert "The gate was not asked yet, or refused with no model in service." in text
    assert "No trial has a course" in text
    assert "No mistakes on the 12 images of test." in text
    assert f"The trials were made in 2 environments: {'a' * 64}, {'b' * 64}." in text
    require_accessible(bare)


def test_report__five_hundred_trials_fit_one_page() -> None:
    page = report_page(facts(board=board(250), trials=trials(250)), load)
    text = Elements(page).text
    assert "500 of 500 trials" in text
    assert len(page) < 1_000_000


def test_as_code__between_backticks() -> None:
    assert str(as_code("`a<b` is > `c`")) == "<code>a&lt;b</code> is &gt; <code>c</code>"


# A click on the head F1 of the classes, twice, and on class; after each the title gets the first letters of the rows.
CLICKS = """
for (const head of [5, 5, 0]) {
  const table = document.getElementById("per-class");
  table.querySelectorAll("th[data-sort] button")[head].click();
  document.title += " " + [...table.tBodies[0].rows].map((row) => row.cells[0].textContent[0]).join("");
}
const page = document.documentElement;
const wide = [...document.querySelectorAll("body *")].filter((each) => !each.closest(".scroll")
  && each.getBoundingClientRect().right > page.clientWidth + 1);
document.title += " wide:" + wide.map((each) => each.tagName).join(",");
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 360])
def test_report__in_a_browser_it_sorts_fits_and_asks_for_nothing(page: str, width: int, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(with_script(page, CLICKS), encoding="utf-8")
    dom, console, asked = browse(tmp_path / "page.html", f"--window-size={width},900")
    assert console == []
    assert asked == set()
    assert "<title>fruit/first, report &lt;ap pa&lt; &lt;ap wide:</title>" in dom
