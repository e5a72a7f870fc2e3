"""The annotated box as the model's picture: which pixels, in which orientation, and what happens without a box."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from platform_assets.vision.datasets.sources import annotation_types
from platform_assets.vision.formats.boxes import Box
from platform_assets.vision.images.cropping import (
    BadBox,
    BoxCrop,
    MissingBox,
    boxes_by_image,
    boxes_of,
    crop_id,
    require_boxes,
)
from platform_assets.vision.images.decoding import decode_rgb
from platform_assets.vision.networks.embedding import ImageNotEmbedded, embed
from platform_assets.vision.networks.engines import Engine
from platform_assets.vision.networks.onnx_classifier import pixels_of_files
from platform_assets.vision.recipes.preprocessing import Preprocessing, pixels_of_file, to_pixels
from platform_assets.vision.training.batches import load_images
from platform_tests.vision.pictures import encoded, noise, write

WHOLE = Preprocessing(image_size_px=8, resize="squash", interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
CROPPED = WHOLE.model_copy(update={"box_margin": 0.0})
BOX: Box = (3.0, 2.0, 8.0, 8.0)
PICTURE = noise(7)  # 20 x 14
PIXELS = np.asarray(PICTURE)


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PICTURE, exif=exif)


def records(*boxes: Box | None, ids: str | None = None) -> pl.DataFrame:
    names = [f"{name}.png" for name in "abcdefgh"[: len(boxes)]]
    box = pl.Series("box", boxes, dtype=annotation_types()["box"])
    return pl.DataFrame({"image_id": list(ids or "abcdefgh"[: len(boxes)]), "path": names}).with_columns(box)


def mean_colour(images_bchw: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images_bchw.mean(axis=(2, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("box", "margin", "rows", "columns"),
    [
        ((3, 2, 8, 4), 0.0, (2, 6), (3, 11)),
        ((3, 4, 8, 4), 0.25, (2, 10), (1, 13)),  # 2 pixels, a quarter of the longer side, on every side
        ((3, 2, 8, 4), 0.5, (0, 10), (0, 15)),  # clipped at the left and the top
        ((12, 8, 8, 6), 0.5, (4, 14), (8, 20)),  # clipped at the right and the bottom
        ((-5, -5, 100, 100), 0.0, (0, 14), (0, 20)),
        ((-5, 3, 6, 2), 0.0, (3, 5), (0, 1)),
        ((3.4, 2.6, 8.2, 4.2), 0.0, (3, 7), (3, 12)),  # to the nearest pixel
        ((5.1, 5.1, 0.2, 0.2), 0.0, (5, 6), (5, 6)),  # never empty
        ((19.9, 13.9, 50, 50), 0.0, (13, 14), (19, 20)),
    ],
)
def test_box_crop__window(box: Box, margin: float, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    assert BoxCrop(box, margin).window(20, 14) == (slice(*rows), slice(*columns))


@given(
    box=st.tuples(*[st.floats(-30, 30, width=32)] * 2, *[st.floats(0.125, 60, width=32)] * 2),
    margin=st.floats(0, 1),
)
def test_box_crop__is_inside_the_picture_or_refused(box: Box, margin: float) -> None:
    x, y, width, height = box
    if x >= 20 or y >= 14 or x + width <= 0 or y + height <= 0:
        with pytest.raises(BadBox, match="misses its picture of 20 x 14"):
            BoxCrop(box, margin).window(20, 14)
        return
    rows, columns = BoxCrop(box, margin).window(20, 14)
    assert 0 <= rows.start < rows.stop <= 14
    assert 0 <= columns.start < columns.stop <= 20


@pytest.mark.parametrize("box", [(0, 0, 0, 4), (0, 0, 4, -1), (float("nan"), 0, 4, 4)])
def test_box_crop__a_box_without_area_is_refused(box: Box) -> None:
    with pytest.raises(BadBox, match="correct it in the source"):
        BoxCrop(box, 0.1).window(20, 14)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_rgb__crop_is_of_stored_pixels_then_upright(orientation: int) -> None:
    """The box marks the same things whichever way the camera was held; the model sees them upright."""
    stored = Image.fromarray(PIXELS[2:10, 3:11])
    stored.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(stored))
    found = decode_rgb(oriented(orientation), crop=BoxCrop(BOX, 0.0))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(pixels_of_file(oriented(orientation), CROPPED, BOX), expected.transpose(2, 0, 1))


def test_pixels_of_file__margin_and_whole_picture() -> None:
    data = encoded(PICTURE)
    grown = CROPPED.model_copy(update={"box_margin": 0.25})
    np.testing.assert_array_equal(pixels_of_file(data, grown, BOX), to_pixels(PIXELS[0:12, 1:13], grown))
    np.testing.assert_array_equal(pixels_of_file(data, WHOLE, BOX), to_pixels(PIXELS, WHOLE))


def test_preprocessing__margin_counts_only_when_it_is_set() -> None:
    assert "box_margin" not in WHOLE.model_dump_json()
    assert Preprocessing.model_validate_json(WHOLE.model_dump_json()) == WHOLE
    assert Preprocessing.model_validate_json(CROPPED.model_dump_json()) == CROPPED
    margins = [WHOLE.model_copy(update={"box_margin": margin}).preprocessing_id for margin in (None, 0.0, 0.1)]
    assert len(set(margins)) == 3
    with pytest.raises(ValueError, match="box_margin"):
        Preprocessing(**{**WHOLE.model_dump(), "box_margin": -0.1})


def test_training_embedding_and_serving_see_the_same_crop(tmp_path: Path) -> None:
    data = oriented(6)
    image_id, path = hashlib.sha256(data).hexdigest(), write(tmp_path, "a.png", data)
    expected = pixels_of_file(data, CROPPED, BOX)
    np.testing.assert_array_equal(load_images([path], CROPPED, boxes=[BOX])[0], expected)
    np.testing.assert_array_equal(pixels_of_files([data], CROPPED, [BOX])[0], expected)
    frame = embed(
        [(image_id, lambda: data)],
        CROPPED,
        Engine(name="torch", batch_size=2, infer=mean_colour),
        boxes={image_id: BOX},
    )
    assert frame["vector"][0].to_list() == expected.mean(axis=(1, 2), dtype=np.float32).tolist()


def test_a_box_that_misses_is_named_by_image_everywhere(tmp_path: Path) -> None:
    data, outside = encoded(PICTURE), (50.0, 0.0, 3.0, 3.0)
    image_id, path = hashlib.sha256(data).hexdigest(), write(tmp_path, "a.png", data)
    with pytest.raises(BadBox, match=r"a\.png: box \[50.0, .*misses its picture of 20 x 14"):
        load_images([path], CROPPED, boxes=[outside])
    with pytest.raises(BadBox, match="image 2 of 2: box"):
        pixels_of_files([data, data], CROPPED, [BOX, outside])
    engine = Engine(name="torch", batch_size=2, infer=mean_colour)
    with pytest.raises(ImageNotEmbedded, match=f"image {image_id}: box .*misses"):
        embed([(image_id, lambda: data)], CROPPED, engine, boxes={image_id: outside})


def test_without_a_box_a_model_of_boxes_refuses(tmp_path: Path) -> None:
    data = encoded(PICTURE)
    for see in (
        lambda: pixels_of_files([data], CROPPED),
        lambda: load_images([write(tmp_path, "a.png", data)], CROPPED),
        lambda: boxes_of(records(BOX, None), CROPPED),
        lambda: boxes_of(records(BOX).drop("box"), CROPPED),
    ):
        with pytest.raises(MissingBox, match="box"):
            see()


def test_require_boxes__names_experiment_number_and_first() -> None:
    require_boxes(records(BOX, BOX), "birds/first")
    said = "experiment birds/first: crop_to_box .*2 of 3 have none, the first is b.png; remove crop_to_box"
    with pytest.raises(MissingBox, match=said):
        require_boxes(records(BOX, None, None), "birds/first")
    with pytest.raises(MissingBox, match=r"3 of 3 have none, the first is a\.png"):
        require_boxes(records(BOX, BOX, BOX).drop("box"), "birds/first")


def test_boxes_by_image__one_box_an_image() -> None:
    assert boxes_by_image(records(BOX, (0, 0, 1, 1)), CROPPED) == {"a": BOX, "b": (0, 0, 1, 1)}
    assert boxes_by_image(records(BOX, None), WHOLE) is None
    assert boxes_by_image(records(BOX, BOX, ids="aa"), CROPPED) == {"a": BOX}
    with pytest.raises(BadBox, match=r"b\.png: the same bytes .* have two boxes"):
        boxes_by_image(records(BOX, (0, 0, 1, 1), ids="aa"), CROPPED)


def test_crop_id__of_image_and_box() -> None:
    assert crop_id("a", None) == "a"
    ids = {crop_id("a", None), crop_id("a", BOX), crop_id("b", BOX), crop_id("a", (3.0, 2.0, 8.0, 8.5))}
    assert len(ids) == 4
    assert crop_id("a", BOX) == hashlib.sha256(b"a [3.0, 2.0, 8.0, 8.0]").hexdigest()
