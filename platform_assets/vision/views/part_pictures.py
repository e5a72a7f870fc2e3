"""The parts that a model looked at, drawn on the images it saw."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from platform_assets.vision.views.figures import MAX_PICTURE_BYTES

if TYPE_CHECKING:
    from platform_assets.vision.networks.models import Classifier

Colour = tuple[int, ...]

_COLUMNS = 4
_GAP_PX = 6
_LARGEST_TILE_PX = 224
_SMALLEST_TILE_PX = 24
# Of 256 in the palette; the others are for boxes and numbers.
_PHOTO_COLOURS = 160
_LINE_PX = 2


class PartsOffTheImage(ValueError):
    """Images, grid and indices that are not of one another."""


def looked_at(classifier: Classifier, images_nchw: NDArray[np.uint8]) -> bytes:
    """`parts_sheet` of what a classifier with part attention picks in images at its size."""
    backbone: Any = classifier.backbone
    images_bchw = torch.from_numpy(images_nchw.copy()).to(classifier.mean.device)
    indices_bs, grid = backbone.selected(classifier.normalised(images_bchw))
    embed = backbone.model.patch_embed
    return parts_sheet(images_nchw, indices_bs.cpu().numpy(), grid, embed.patch_size[0], embed.proj.stride[0])


def parts_sheet(
    images_nchw: NDArray[np.uint8],
    indices_ns: NDArray[np.int64],
    grid: tuple[int, int],
    patch_px: int,
    stride_px: int,
) -> bytes:
    """PNG of the images with their selected patches boxed, small enough for the event log.

    Numbers count the parts from 1: heads for selector transfg, ranks for glsim, each with its colour. A patch that
    several picked has a box for each, one inside the other. Indices count row by row through `grid`, (rows, columns).
    """
    _require_belong(images_nchw, indices_ns, grid, patch_px, stride_px)
    corners_ns2 = np.stack(np.divmod(indices_ns, grid[1])[::-1], axis=-1) * stride_px
    tile_px = _LARGEST_TILE_PX
    while True:
        png = _sheet(images_nchw, corners_ns2, patch_px, tile_px)
        if len(png) <= MAX_PICTURE_BYTES or tile_px <= _SMALLEST_TILE_PX:
            return png
        # Bytes follow the area; a little smaller, so that the next one fits.
        tile_px = max(_SMALLEST_TILE_PX, int(tile_px * 0.95 * math.sqrt(MAX_PICTURE_BYTES / len(png))))


def _sheet(images_nchw: NDArray[np.uint8], corners_ns2: NDArray[np.int64], patch_px: int, tile_px: int) -> bytes:
    scale = tile_px / max(images_nchw.shape[2:])
    height, width = (max(1, round(side * scale)) for side in images_nchw.shape[2:])
    columns = min(_COLUMNS, len(images_nchw))
    step_x, step_y = width + _GAP_PX, height + _GAP_PX
    lines = -(-len(images_nchw) // columns)
    sheet = Image.new("RGB", (columns * step_x + _GAP_PX, lines * step_y + _GAP_PX), "white")
    places = [(_GAP_PX + n % columns * step_x, _GAP_PX + n // columns * step_y) for n in range(len(images_nchw))]
    for image_chw, place in zip(images_nchw, places, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(image_chw.transpose(1, 2, 0)))
        sheet.paste(picture.resize((width, height), Image.Resampling.LANCZOS), place)
    # Boxes are drawn after the colours of the photographs are reduced, so that they keep their own.
    sheet = sheet.quantize(_PHOTO_COLOURS, dither=Image.Dither.NONE)
    for corners_s2, place in zip(corners_ns2, places, strict=True):
        _draw_parts(sheet, place, corners_s2 * scale, patch_px * scale)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_parts(sheet: Image.Image, place: tuple[int, int], corners_s2: NDArray[np.float64], side: float) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.fontmode = "1"
    pickers: dict[tuple[int, int], list[int]] = defaultdict(list)
    for part, (x, y) in enumerate(corners_s2):
        pickers[place[0] + round(x), place[1] + round(y)].append(part)
    for (left, top), parts in pickers.items():
        for depth, part in enumerate(parts):
            inset, size = depth * _LINE_PX, round(side) - 1
            if 2 * inset <= size:
                box = (left + inset, top + inset, left + size - inset, top + size - inset)
                draw.rectangle(box, outline=part_colour(part), width=_LINE_PX)
    for (left, top), parts in pickers.items():
        _write_numbers(draw, (left, top), parts)


def _write_numbers(draw: ImageDraw.ImageDraw, corner: tuple[int, int], parts: list[int]) -> None:
    font, text = ImageFont.load_default(10), " ".join(str(part + 1) for part in parts)
    at = (corner[0] + _LINE_PX, corner[1])
    draw.rectangle(draw.textbbox(at, text, font=font), fill=(255, 255, 255))
    draw.text(at, text, font=font, fill=(0, 0, 0))


def part_colour(part: int) -> Colour:
    """RGB; neighbours differ by the golden angle in hue, so that no two of a dozen are alike."""
    return ImageColor.getrgb(f"hsv({round(part * 137.5) % 360}, 100%, 90%)")


def _require_belong(
    images_nchw: NDArray[np.uint8], indices_ns: NDArray[np.int64], grid: tuple[int, int], patch_px: int, stride_px: int
) -> None:
    if len(images_nchw) == 0 or len(images_nchw) != len(indices_ns):
        raise PartsOffTheImage(
            f"{len(images_nchw)} images and the parts of {len(indices_ns)}; give one image or more, and parts of each"
        )
    needed = tuple((steps - 1) * stride_px + patch_px for steps in grid)
    if any(need > have for need, have in zip(needed, images_nchw.shape[2:], strict=True)):
        raise PartsOffTheImage(
            f"a grid of {grid} patches of {patch_px} pixels every {stride_px} covers {needed} pixels, the images have "
            f"{images_nchw.shape[2:]}; give the images that the model saw"
        )
    if indices_ns.min() < 0 or indices_ns.max() >= grid[0] * grid[1]:
        raise PartsOffTheImage(
            f"parts {indices_ns.min()} to {indices_ns.max()} are not all on a grid of {grid}; indices count from 0 to "
            f"{grid[0] * grid[1] - 1}, without class token and registers"
        )
