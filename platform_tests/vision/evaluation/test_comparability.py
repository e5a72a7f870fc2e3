"""The hash of what two evaluations must share, and the refusal that names what they do not."""

from __future__ import annotations

import polars as pl
import pytest

from platform_assets.vision.evaluation.comparability import (
    Comparability,
    ComparisonError,
    fixed_preprocessing,
    require_comparable,
    split_sha256,
)
from platform_assets.vision.recipes.resolving import CropToBox
from platform_tests.vision.trial_rows import PROTOCOL

PARTS = {
    **{"dataset_version": "v1", "label_map_checksum": "a" * 64, "split_sha256": "b" * 64},
    **{"val_ids_sha256": "c" * 64, "test_ids_sha256": "d" * 64, "protocol": "{}", "metric_code": "e"},
}


def _rows(*trials: tuple[str, int, dict[str, str]]) -> pl.DataFrame:
    rows = [{"trial": name, "seed": seed, **Comparability(**PARTS | changed).columns} for name, seed, changed in trials]
    return pl.DataFrame(rows)


@pytest.mark.parametrize("part", PARTS)
def test_comparability__every_part_changes_the_hash(part: str) -> None:
    assert Comparability(**PARTS | {part: "other"}).sha256 != Comparability(**PARTS).sha256
    assert Comparability(**PARTS).columns == {"comparability": Comparability(**PARTS).sha256, **PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_require_comparable__refuses_under_one_seed_whatever_differs(part: str) -> None:
    with pytest.raises(ComparisonError, match=r"'a' and 'b' have different .* cannot be compared; .*materialize"):
        require_comparable(_rows(("a", 0, {}), ("b", 0, {part: "other"})))


@pytest.mark.parametrize("part", PARTS)
def test_require_comparable__seeds_may_have_splits_of_their_own_and_nothing_else(part: str) -> None:
    rows = _rows(("a", 0, {}), ("b", 1, {part: "other"}))
    if part in ("split_sha256", "val_ids_sha256", "test_ids_sha256"):
        require_comparable(rows)
    else:
        with pytest.raises(ComparisonError, match="'a' and 'b' have different"):
            require_comparable(rows)


def test_require_comparable__refuses_an_edited_row() -> None:
    rows = _rows(("a", 0, {}), ("b", 0, {"dataset_version": "v2"})).with_columns(dataset_version=pl.lit("v1"))
    with pytest.raises(
        ComparisonError, match=r"'b' has the comparability hash .* its metrics row was edited; materialize"
    ):
        require_comparable(rows)


def test_require_comparable__refuses_a_row_of_older_code() -> None:
    rows = pl.concat([_rows(("a", 0, {})), pl.DataFrame({"trial": ["old"], "seed": [0]})], how="diagonal_relaxed")
    with pytest.raises(ComparisonError, match="'old' has no comparability hash, older code made its row; materialize"):
        require_comparable(rows)
    with pytest.raises(ComparisonError, match="'old' has no comparability hash"):
        require_comparable(pl.DataFrame({"trial": ["old"], "seed": [0]}))


def test_split_sha256__knows_the_parts_and_not_the_order() -> None:
    parts = pl.DataFrame({"image_id": ["1", "2", "3"], "split": ["train", "val", "test"], "path": ["x"] * 3})
    moved = parts.with_columns(split=pl.Series(["val", "train", "test"]))
    assert split_sha256(parts) == split_sha256(parts.reverse()) != split_sha256(moved)


def test_fixed_preprocessing__leaves_out_what_variants_choose() -> None:
    said = fixed_preprocessing(PROTOCOL)
    for same in ({"image_size_px": 64}, {"experiment": "f"}, {"metric": "macro_f1"}, {"resample": True}, {"folds": 3}):
        assert fixed_preprocessing(PROTOCOL.model_copy(update=same)) == said
    for other in ({"resize": "shorter_side"}, {"crop_to_box": CropToBox(margin=0.2)}):
        assert fixed_preprocessing(PROTOCOL.model_copy(update=other)) != said
