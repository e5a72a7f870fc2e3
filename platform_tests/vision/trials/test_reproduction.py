"""The first difference: none between equals, and named where there is one, however small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from platform_assets.vision.trials.reproduction import (
    facts_difference,
    history_difference,
    metrics_difference,
    predictions_difference,
    weights_difference,
)

FACTS = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.dictionaries(st.text(min_size=1), inner) | st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), FACTS))
def test_facts_difference__equals_have_none(facts: dict[str, object]) -> None:
    assert list(facts_difference(facts, facts)) == []
    assert metrics_difference(facts, facts) is None


def test_facts_difference__each_is_named_by_its_dotted_name() -> None:
    then = {"train": {"epochs": 2, "augmentation": None}, "seed": 0, "torch": "2.14"}
    now = {"train": {"epochs": 3, "augmentation": None}, "seed": 0, "os": "x"}
    assert list(facts_difference(then, now)) == [
        "train.epochs was 2, is 3",
        "torch was '2.14', is 'absent'",
        "os was 'absent', is 'x'",
    ]


def test_metrics_difference__figures_that_one_side_does_not_know_do_not_count() -> None:
    then = {"test": {"top1": 0.5, "per_class": [{"f1": 0.1}, {"f1": 0.2}]}}
    assert metrics_difference(then, {"test": {**then["test"], "brier": 0.2}}) is None
    now = {"test": {"top1": 0.5, "per_class": [{"f1": 0.1}, {"f1": 0.25}]}}
    assert metrics_difference(then, now) == "test.per_class[1].f1 was 0.2, is 0.25"


def weights(path: Path, said: str = "x", **tensors: np.ndarray) -> Path:
    save_file({name.replace("_", "."): tensor for name, tensor in tensors.items()}, path, metadata={"kestrel": said})
    return path


def test_weights_difference__one_bit_of_one_value_is_found(tmp_path: Path) -> None:
    bias, weight = np.zeros(3, np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)
    then = weights(tmp_path / "then", head_bias=bias, head_weight=weight)
    assert weights_difference(then, weights(tmp_path / "same", head_bias=bias, head_weight=weight)) is None
    changed = weight.copy()
    changed[1, 2] = np.nextafter(changed[1, 2], np.float32(9))
    said = weights_difference(then, weights(tmp_path / "now", head_bias=bias, head_weight=changed))
    assert said is not None
    assert said.startswith("tensor head.weight differs in 1 of 6 values, by up to 4.77e-07; 1 of 2 differ")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"head_bias": np.zeros(4, np.float32)}, "tensor head.bias was float32 (3,), is float32 (4,)"),
        ({"head_weight": np.zeros(3, np.float32)}, "tensor head.bias is in one file alone, as are 1 more"),
        (
            {"head_bias": np.zeros(3, np.float32), "said": "y"},
            "all tensors are the same, and the file says {'kestrel': 'y'}",
        ),
    ],
)
def test_weights_difference__other_shapes_names_and_bonds(tmp_path: Path, now: dict, said: str) -> None:
    then = weights(tmp_path / "then", head_bias=np.zeros(3, np.float32))
    assert (weights_difference(then, weights(tmp_path / "now", **now)) or "").startswith(said)


def test_history_difference__times_do_not_count_and_losses_do() -> None:
    then = pl.DataFrame(
        {"epoch": [1, 2], "train_loss": [1.0, 0.5], "gradient_norm": [None, None], "seconds": [1.0, 2.0]}
    )
    assert history_difference(then, then.with_columns(seconds=pl.lit(9.0))) is None
    changed = then.with_columns(train_loss=pl.Series([1.0, 0.25]))
    assert history_difference(then, changed) == "row 2 of the history: train_loss was 0.5, is 0.25"
    assert history_difference(then, then.head(1)) == "the history has 1 rows, it had 2"
    nan = then.with_columns(train_loss=pl.lit(float("nan")))
    assert history_difference(nan, nan) is None


def predictions(*logits: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "image_id": [f"{number}" for number in range(len(logits))],
            "path": [f"{number}.png" for number in range(len(logits))],
            "part": "test",
            "prediction": ["ab"[row.index(max(row))] for row in logits],
            "logits": pl.Series(logits, dtype=pl.List(pl.Float32)),
        }
    )


def test_predictions_difference__the_first_image_and_how_many_labels_changed() -> None:
    then = predictions([1, 0], [1, 0], [0, 1])
    assert predictions_difference(then, then.reverse()) is None
    now = predictions([1, 0], [1, 0.25], [1.5, 1])
    assert predictions_difference(then, now) == (
        "image 1.png (test): logits differ by up to 0.25; those of 2 of 3 images do, and 1 predictions are other labels"
    )
    assert "3 images were evaluated, 2 are now, 2 of them" in (predictions_difference(then, then.head(2)) or "")
