"""The cache of embeddings on real Parquet files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from platform_assets.stores.embeddings import BadEmbeddings, DamagedEmbeddings, EmbeddingCache, EmbeddingKey

KEY = EmbeddingKey(
    backbone="baseline_cnn",
    weights_sha256="ab" * 32,
    preprocessing_id="0123456789abcdef",
    engine="torch",
    feature_dim=3,
)


def _frame(*image_ids: str, seed: int = 0) -> pl.DataFrame:
    vectors = np.random.default_rng(seed).normal(size=(len(image_ids), 3)).astype(np.float32)
    return pl.DataFrame({"image_id": list(image_ids), "vector": vectors}, schema=KEY.columns)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path)


def test_lookup__empty_cache_gives_an_empty_typed_frame(cache: EmbeddingCache) -> None:
    found = cache.lookup(KEY, ["a"])
    assert found.schema == KEY.columns
    assert found.is_empty()


def test_lookup__gives_what_is_held_in_the_order_asked_for(cache: EmbeddingCache) -> None:
    first, second = _frame("a", "b"), _frame("c", seed=1)
    path = cache.add(KEY, first)
    cache.add(KEY, second)
    assert path.parent == cache.root / f"baseline_cnn-{'ab' * 8}-0123456789abcdef-torch"
    found = cache.lookup(KEY, ["c", "missing", "a", "c"])
    assert found.equals(pl.concat([second, first.head(1)]))


@pytest.mark.parametrize(
    "change",
    [{"weights_sha256": "cd" * 32}, {"preprocessing_id": "f" * 16}, {"engine": "openvino"}, {"backbone": "other"}],
)
def test_lookup__another_key_holds_nothing(cache: EmbeddingCache, change: dict[str, str]) -> None:
    cache.add(KEY, _frame("a"))
    assert cache.lookup(KEY.model_copy(update=change), ["a"]).is_empty()


@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3), min_size=1, max_size=5))
def test_add__float32_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]]) -> None:
    cache = EmbeddingCache(tmp_path_factory.mktemp("cache"))
    vectors = np.array(rows, np.float32)
    image_ids = [str(index) for index in range(len(rows))]
    cache.add(KEY, pl.DataFrame({"image_id": image_ids, "vector": vectors}, schema=KEY.columns))
    assert cache.lookup(KEY, image_ids)["vector"].to_numpy().tobytes() == vectors.tobytes()


def test_add__the_same_rows_again_are_the_same_part(cache: EmbeddingCache) -> None:
    assert cache.add(KEY, _frame("a", "b")) == cache.add(KEY, _frame("a", "b"))
    assert len(list((cache.root / KEY.folder).iterdir())) == 1


def test_lookup__many_vectors_of_one_image_always_give_the_same_one(tmp_path: Path) -> None:
    # Runs that embed the same image at once: every part stays, readers agree on one.
    caches = EmbeddingCache(tmp_path / "forth"), EmbeddingCache(tmp_path / "back")
    for seed in range(8):
        caches[0].add(KEY, _frame("a", seed=seed))
        caches[1].add(KEY, _frame("a", seed=7 - seed))
    assert caches[0].lookup(KEY, ["a"]).equals(caches[1].lookup(KEY, ["a"]))


@pytest.mark.parametrize(
    "frame",
    [
        _frame(),
        _frame("a", "a"),
        _frame("a").rename({"vector": "embedding"}),
        _frame("a").with_columns(pl.col("vector").cast(pl.Array(pl.Float64, 3))),
        pl.DataFrame({"image_id": ["a"], "vector": [[1.0, 2.0]]}, schema_overrides={"vector": pl.Array(pl.Float32, 2)}),
        pl.DataFrame({"image_id": ["a"], "vector": [None]}, schema=KEY.columns),
    ],
    ids=["empty", "repeated", "other column", "float64", "other width", "null"],
)
def test_add__refuses_what_is_not_one_vector_per_image(cache: EmbeddingCache, frame: pl.DataFrame) -> None:
    with pytest.raises(BadEmbeddings, match="baseline_cnn-"):
        cache.add(KEY, frame)
    assert not cache.root.exists()


def test_add_all__keeps_what_was_computed_before_a_failure(cache: EmbeddingCache) -> None:
    def frames() -> Iterator[pl.DataFrame]:
        for name in ("a", "b", "c"):
            yield _frame(name)
        raise RuntimeError("image d")

    with pytest.raises(RuntimeError, match="image d"):
        cache.add_all(KEY, frames(), rows_per_part=2)
    assert cache.lookup(KEY, ["a", "b", "c"])["image_id"].to_list() == ["a", "b", "c"]
    assert len(list((cache.root / KEY.folder).iterdir())) == 2


def test_add_all__counts_rows_and_adds_no_empty_part(cache: EmbeddingCache) -> None:
    assert cache.add_all(KEY, iter([_frame("a", "b"), _frame("c", "d")]), rows_per_part=2) == 4
    assert cache.add_all(KEY, iter([])) == 0
    assert len(list((cache.root / KEY.folder).iterdir())) == 2


def test_lookup__damaged_part_is_named_with_the_cure(cache: EmbeddingCache) -> None:
    path = cache.add(KEY, _frame("a"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedEmbeddings, match=rf"{path.name}: not readable as Parquet .*delete the file"):
        cache.lookup(KEY, ["a"])


def test_lookup__part_with_other_columns_is_named(cache: EmbeddingCache) -> None:
    path = cache.add(KEY, _frame("a"))
    pl.DataFrame({"image_id": ["a"]}).write_parquet(path)
    with pytest.raises(DamagedEmbeddings, match=f"{path.name}: columns are"):
        cache.lookup(KEY, ["a"])


def test_lookup__unfinished_file_of_a_killed_writer_is_not_seen(cache: EmbeddingCache) -> None:
    path = cache.add(KEY, _frame("a"))
    (path.parent / ".123.tmp").write_bytes(b"half")
    assert cache.lookup(KEY, ["a"]).height == 1


def test_add__two_processes_lose_nothing(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
import polars as pl
from platform_assets.stores.embeddings import EmbeddingCache, EmbeddingKey
key = EmbeddingKey.model_validate_json(sys.argv[2])
cache = EmbeddingCache(Path(sys.argv[1]))
for i in range(40):
    ids = [f"both{i}", f"{sys.argv[3]}{i}"]
    cache.add(key, pl.DataFrame({"image_id": ids, "vector": [[float(i)] * 3] * 2}, schema=key.columns))
    assert cache.lookup(key, ids).height == 2
"""
    command = [sys.executable, "-c", program, str(tmp_path), KEY.model_dump_json()]
    writers = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in ("x", "y")]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    asked = [f"{name}{i}" for name in ("x", "y", "both") for i in range(40)]
    assert EmbeddingCache(tmp_path).lookup(KEY, asked)["image_id"].to_list() == asked


@pytest.mark.parametrize(
    "change", [{"backbone": "../evil"}, {"weights_sha256": "ab"}, {"engine": "a/b"}, {"feature_dim": 0}, {"extra": 1}]
)
def test_embedding_key__refuses_what_cannot_be_a_folder(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        EmbeddingKey.model_validate({**KEY.model_dump(), **change})
