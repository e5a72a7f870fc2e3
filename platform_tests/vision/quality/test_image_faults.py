"""Image faults: each planted one is named, sound pictures are not, the worst comes first."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageFilter, ImageOps

from platform_assets.vision.images.decoding import UnreadableImage
from platform_assets.vision.quality.image_faults import image_faults, pixel_scores, scores_by_pixels
from platform_tests.vision.pictures import encoded


def scene(seed: int = 0, *, width: int = 96, height: int = 72) -> Image.Image:
    """Blocks of colour: edges, contrast, all levels."""
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def faults_of(pictures: dict[str, Image.Image]) -> pl.DataFrame:
    data = {path: encoded(picture) for path, picture in pictures.items()}
    rows = [
        {"image_id": hashlib.sha256(data[path]).hexdigest(), "path": path, "width": image.width, "height": image.height}
        for path, image in pictures.items()
    ]
    records = pl.DataFrame(rows)
    return image_faults(records, scores_by_pixels(records, data.__getitem__))


SOUND = {f"sound{index}": scene(index) for index in range(8)}
PLANTED = {
    "blur": ImageOps.autocontrast(scene(20).filter(ImageFilter.GaussianBlur(16))),
    "dark": scene(21).point([level // 8 for level in range(256)] * 3),
    "bright": scene(22).point([253 + level // 128 for level in range(256)] * 3),
    "low_information": Image.new("RGB", (96, 72), (90, 120, 60)),
    "odd_aspect": scene(23, width=240, height=30),
    "odd_size": scene(24, width=960, height=720),
}


def test_faults__sound_pictures_have_none() -> None:
    assert faults_of(SOUND).is_empty()


@pytest.mark.parametrize("fault", list(PLANTED))
def test_faults__a_planted_one_is_named_and_no_sound_picture(fault: str) -> None:
    found = faults_of(SOUND | {"planted": PLANTED[fault]})
    assert set(found["path"]) == {"planted"}
    assert fault in set(found["fault"])


def test_faults__the_worse_picture_of_a_kind_comes_first() -> None:
    darker = {f"dark{by}": scene(30).point([level // by for level in range(256)] * 3) for by in (6, 40, 12)}
    found = faults_of(SOUND | darker).filter(fault="dark")
    assert found["path"].to_list() == ["dark40", "dark12", "dark6"]
    assert found["score"].is_sorted()


def test_faults__do_not_depend_on_the_order_of_records() -> None:
    pictures = SOUND | PLANTED
    assert faults_of(pictures).equals(faults_of(dict(reversed(pictures.items()))))


def test_faults__an_image_in_two_parts_is_named_once() -> None:
    data = encoded(PLANTED["dark"])
    row = {"image_id": hashlib.sha256(data).hexdigest(), "width": 96, "height": 72}
    twice = pl.DataFrame([{**row, "path": "test/a"}, {**row, "path": "train/a"}])
    found = image_faults(twice, scores_by_pixels(twice, lambda path: data))
    assert found.filter(fault="dark")["path"].to_list() == ["test/a"]


def test_faults__a_file_that_is_no_image_is_said_so() -> None:
    row = {"image_id": "a", "path": "a.png", "width": 9, "height": 9}
    with pytest.raises(UnreadableImage, match="not_an_image"):
        scores_by_pixels(pl.DataFrame([row]), lambda path: b"no image at all")


def test_scores__lie_between_0_and_1() -> None:
    for picture in (*SOUND.values(), *PLANTED.values(), Image.new("RGB", (1, 1))):
        assert all(0 <= score <= 1 for score in pixel_scores(np.asarray(picture)))
