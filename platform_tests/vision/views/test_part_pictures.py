"""Sheets of selected parts: where the boxes are, in which colours, and how large the picture is."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from platform_assets.vision.networks.models import build_classifier
from platform_assets.vision.recipes.part_options import PartOptions
from platform_assets.vision.views.figures import MAX_PICTURE_BYTES
from platform_assets.vision.views.part_pictures import PartsOffTheImage, looked_at, part_colour, parts_sheet
from platform_tests.vision.shapes import PREPROCESSING

GAP_PX, TILE_PX = 6, 224


def _pixels(png: bytes) -> Any:
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _grey(count: int, side: int = 224) -> Any:
    return np.full((count, 3, side, side), 128, dtype=np.uint8)


def _box_of(pixels: Any, colour: tuple[int, ...]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((pixels == colour).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_parts_sheet__boxes_are_on_their_patches() -> None:
    """Grid of stride 12 on 224 pixels: index 20 is row 1, column 2; index 323 the last of 18 x 18."""
    pixels = _pixels(parts_sheet(_grey(2), np.array([[20, 323], [0, 20]]), (18, 18), 16, 12))
    assert pixels.shape == (TILE_PX + 2 * GAP_PX, 2 * TILE_PX + 3 * GAP_PX, 3)
    first, second = pixels[:, : TILE_PX + GAP_PX], pixels[:, TILE_PX + GAP_PX :]
    assert _box_of(first, part_colour(0)) == (GAP_PX + 24, GAP_PX + 12, GAP_PX + 40, GAP_PX + 28)
    assert _box_of(first, part_colour(1)) == (GAP_PX + 204, GAP_PX + 204, GAP_PX + 220, GAP_PX + 220)
    assert _box_of(second, part_colour(0)) == (GAP_PX, GAP_PX, GAP_PX + 16, GAP_PX + 16)


def test_looked_at__is_what_the_model_picks_in_the_pixels_that_it_is_given() -> None:
    seen = PREPROCESSING.model_copy(update={"image_size_px": 64, "mean": (0.9, 0.1, 0.5), "std": (0.1, 0.5, 0.2)})
    classifier = build_classifier("timm/test_vit", 3, seen, pretrained=False, seed=0, parts=PartOptions(stride_px=12))
    images_nchw = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    mean, std = (np.array(values, dtype=np.float32)[:, None, None] for values in (seen.mean, seen.std))
    backbone: Any = classifier.backbone
    indices_bs, grid = backbone.selected(torch.from_numpy((images_nchw / np.float32(255) - mean) / std))
    assert grid == (5, 5)
    assert looked_at(classifier, images_nchw) == parts_sheet(images_nchw, indices_bs.numpy(), grid, 16, 12)


def test_parts_sheet__one_patch_of_three_heads_shows_three_colours() -> None:
    pixels = _pixels(parts_sheet(_grey(1), np.array([[5, 5, 5]]), (4, 4), 56, 56))
    sides = [_box_of(pixels, part_colour(part)) for part in range(3)]
    widths = [right - left for left, _, right, _ in sides]
    assert widths == [56, 52, 48]


def test_parts_sheet__numbers_are_written() -> None:
    one, other = (
        _pixels(parts_sheet(_grey(1), np.array([row]), (4, 4), 56, 56)) for row in ([1, 2, 3, 5], [1, 2, 5, 3])
    )
    changed = np.argwhere((one != other).any(axis=2))
    assert len(changed) > 0
    assert (one[changed[:, 0], changed[:, 1]].max(axis=1) == 0).any(), "black ink, elsewhere in the other"


def test_parts_sheet__noise_is_kept_under_the_limit_of_the_event_log() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 224, 224), dtype=np.uint8)
    sheet = parts_sheet(images, np.zeros((5, 12), dtype=np.int64), (14, 14), 16, 16)
    assert len(sheet) <= MAX_PICTURE_BYTES
    assert _pixels(sheet).shape[1] > 4 * 24


def test_part_colour__twelve_heads_have_twelve_colours() -> None:
    colours = np.array([part_colour(part) for part in range(12)])
    distances = np.abs(colours[:, None].astype(int) - colours[None]).sum(axis=2) + 1000 * np.eye(12)
    assert distances.min() > 60


@pytest.mark.parametrize(
    ("count", "indices", "grid", "message"),
    [
        (0, np.zeros((0, 2), dtype=np.int64), (4, 4), "0 images and the parts of 0"),
        (2, np.zeros((1, 2), dtype=np.int64), (4, 4), "2 images and the parts of 1"),
        (1, np.array([[16, 3]]), (4, 4), "parts 3 to 16 are not all on a grid of .*from 0 to 15"),
        (1, np.array([[0]]), (5, 4), "covers .*280, 224.* pixels, the images have .*224, 224"),
    ],
)
def test_parts_sheet__refuses_what_is_not_of_one_another(count: int, indices: Any, grid: Any, message: str) -> None:
    with pytest.raises(PartsOffTheImage, match=message):
        parts_sheet(_grey(count), indices, grid, 56, 56)
