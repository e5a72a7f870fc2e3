"""Markdown pieces: what is escaped, how numbers read, what an absent fact looks like."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from platform_assets.vision.cards.markdown import cell, front_matter, literal, stated, table

# PyYAML loses two control characters that it could escape (U+0085 comes back as a blank).
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")))


@given(st.dictionaries(TEXT.filter(bool), TEXT | st.lists(TEXT)))
def test_front_matter__any_text_comes_back(facts: dict[str, object]) -> None:
    text = front_matter(facts)
    assert text.startswith("---\n")
    assert text.endswith("\n---")
    assert yaml.safe_load(text[4:-3]) == facts


@given(st.text())
def test_table__any_text_stays_in_its_cell(text: str) -> None:
    """A class named `a|b` once moved every number of its row by a column."""
    header, rule, row = table(["class", "images"], [(text, 3)]).split("\n")
    assert header.count("|") == rule.count("|") == row.replace("\\\\", "").replace("\\|", "").count("|") == 3


def test_literal__html_links_and_emphasis_are_text() -> None:
    assert literal("<img src=x> [a](b) *c* `d`\ne") == r"\<img src=x\> \[a\](b) \*c\* \`d\` e"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.5, "0.5000"),
        (0.0, "0.0000"),
        (1234567, "1,234,567"),
        (3e-07, "3e-07"),
        (12345.6, "12,346"),
        (-12.34, "-12.3"),
    ],
)
def test_cell__numbers_and_gaps(value: float | None, text: str) -> None:
    assert cell(value) == text


def test_cell__true_is_not_one() -> None:
    assert cell(True) == "True"


def test_table__says_what_it_leaves_out() -> None:
    assert table(["n"], [(i,) for i in range(5)], most=3).endswith("| 2 |\n\n2 more rows are left out.")


def test_stated__blank_is_a_gap() -> None:
    assert (stated(None), stated("  "), stated(" MIT ")) == ("not stated", "not stated", "MIT")
