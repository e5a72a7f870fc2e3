"""Thumbnails: a stable choice, small enough together, and a clear word when an image is gone."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from platform_assets.vision.cards.thumbnails import LostImage, class_samples, data_uris
from platform_tests.vision.pictures import encoded, noise


def _records(sizes: dict[str, int]) -> pl.DataFrame:
    rows = [(label, number) for label, size in sizes.items() for number in range(size)]
    return pl.DataFrame(
        {
            "image_id": [f"{(7 * number + 3) % 10}{label}{number}" for label, number in rows],
            "path": [f"{label}/{number}.png" for label, number in rows],
            "label": [label for label, _ in rows],
        }
    )


def _picture(uri: str) -> Image.Image:
    head, data = uri.split(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_samples__the_first_by_hash_of_the_largest_classes() -> None:
    chosen = class_samples(_records({"a": 2, "b": 9, "c": 5}), classes=2, per_class=3)
    assert chosen["image_id"].to_list() == ["0b1", "1b4", "2b7", "0c1", "1c4", "3c0"]
    assert chosen.columns == ["image_id", "path", "label"]


def test_samples__row_order_and_paths_do_not_matter_and_copies_count_once() -> None:
    records = _records({"a": 6, "b": 6})
    ids = class_samples(records, classes=2, per_class=4)["image_id"].to_list()
    moved = records.with_columns(pl.format("new/{}", "path").alias("path"))
    assert class_samples(moved.reverse(), classes=2, per_class=4)["image_id"].to_list() == ids
    twice = pl.concat([moved, records])
    assert class_samples(twice, classes=2, per_class=4)["image_id"].to_list() == ids
    assert class_samples(twice.reverse(), classes=2, per_class=4).equals(class_samples(twice, classes=2, per_class=4))


def test_samples__one_more_image_replaces_at_most_one() -> None:
    before = class_samples(_records({"a": 8}), classes=1, per_class=4)["image_id"]
    after = class_samples(_records({"a": 9}), classes=1, per_class=4)["image_id"]
    assert len(set(before) - set(after)) <= 1


def test_data_uris__noise_keeps_to_the_budget() -> None:
    """Noise is the worst case for a compressor: at 128 pixels one picture has 18 kB."""
    files = {f"{seed}.png": encoded(noise(seed, width=200, height=150)) for seed in range(4)}
    for budget in (120_000, 30_000, 8_000):
        uris = data_uris(list(files), files.__getitem__, most_bytes=budget)
        assert sum(map(len, uris)) <= budget
    assert _picture(data_uris(["0.png"], files.__getitem__, most_bytes=120_000)[0]).size == (128, 96)


def test_data_uris__upright_whole_and_in_order() -> None:
    stored = Image.new("RGB", (60, 20), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {"turned.jpg": encoded(stored, "JPEG", exif=exif), "red.png": encoded(Image.new("RGB", (8, 8), "red"))}
    turned, red = map(_picture, data_uris(["turned.jpg", "red.png"], files.__getitem__, most_bytes=50_000))
    assert turned.size == (20, 60)
    assert red.size == (8, 8)
    assert red.convert("RGB").getpixel((4, 4))[0] > 200  # type: ignore[index]
    assert not red.getexif()


@pytest.mark.parametrize("data", [None, b"", b"not an image"])
def test_data_uris__an_image_that_is_gone_or_changed_is_named(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(LostImage, match=r"^a\.png: .*materialize source and records again"):
        data_uris(["a.png"], lambda path: (tmp_path / path).read_bytes(), most_bytes=1000)
