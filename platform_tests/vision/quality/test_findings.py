"""Groups of near duplicates as page and card count them."""

from __future__ import annotations

import polars as pl

from platform_assets.vision.quality.findings import Findings


def _grouped(image_ids: str, groups: list[str | None]) -> Findings:
    return Findings(near_duplicates=pl.DataFrame({"image_id": list(image_ids), "near_group": groups}))


def test_near_groups__largest_first_whatever_the_order_of_rows() -> None:
    found = _grouped("edcbahg", ["y", "x", "y", "x", "y", None, "lone"])
    assert found.near_groups() == [("a", "c", "e"), ("b", "d")]
    assert _grouped("abcdegh", ["y", "x", "y", "x", "y", "lone", None]).near_groups() == found.near_groups()


def test_near_groups__none_where_nobody_looked() -> None:
    assert Findings().near_groups() == []
