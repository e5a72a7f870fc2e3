"""Pieces of Markdown that cards are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

NOT_STATED = "not stated"

Row = Sequence[Any]


def front_matter(facts: Mapping[str, Any]) -> str:
    """The YAML block at the head of a Hugging Face card."""
    text = yaml.safe_dump(dict(facts), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---"


def table(header: Sequence[str], rows: Sequence[Row], *, most: int = 200) -> str:
    """A Markdown table; beyond `most` rows it says how many are left out."""
    shown = [header, ["---"] * len(header), *(map(cell, row) for row in rows[:most])]
    lines = [f"| {' | '.join(row)} |" for row in shown]
    if len(rows) > most:
        lines.append(f"\n{len(rows) - most:,} more rows are left out.")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value as text of a table: thousands set apart, Markdown signs escaped, a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return literal(str(value))
    return f"{value:,}" if isinstance(value, int) else number(value)


def number(value: float) -> str:
    """As many digits as its size deserves: 0.8571, 3e-07, 12.3, 12,346."""
    if abs(value) >= 10:
        return f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3g}"


def literal(text: str) -> str:
    """Text from data, such as a class name, that must not be read as Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def stated(text: str | None) -> str:
    return text.strip() if text and text.strip() else NOT_STATED
