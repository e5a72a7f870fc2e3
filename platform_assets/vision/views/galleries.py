"""Sheets of thumbnails with captions, small enough for Dagster's event log."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from platform_assets.vision.datasets.splits import Part
from platform_assets.vision.evaluation.predictions import predictions_of_part
from platform_assets.vision.images.decoding import decode_rgb
from platform_assets.vision.images.image_files import ReadBytes
from platform_assets.vision.views.figures import MAX_PICTURE_BYTES

Caption = tuple[str, str]

_COLUMNS = 8
_TILE_PX = 112
_GAP_PX = 6
_LINE_PX = 14
_MOST_HEAT = 0.75
_BACKGROUND, _MAT, _INK, _FAINT_INK = "white", "#E8E8E8", "black", "#606060"


class NothingToShow(ValueError):
    """A contact sheet of no images."""


def contact_sheet(records: pl.DataFrame, load: ReadBytes, *, most: int = 48) -> bytes:
    """JPEG of up to `most` images, classes in turn, captioned with label and part. `load` gives the bytes of a path.

    Which images are shown follows from their content alone, not from the order of the rows.
    """
    if records.is_empty():
        raise NothingToShow("the records table is empty; a contact sheet needs one image or more")
    chosen = classes_in_turn(records, most=most)
    rows = chosen.sort("label", "turn").select("path", "label", pl.col("split").fill_null("no part")).rows()
    return _sheet([path for path, _, _ in rows], [(label, part) for _, label, part in rows], load)


def classes_in_turn(records: pl.DataFrame, *, most: int) -> pl.DataFrame:
    """Up to `most` records with their `turn`, one of each class before a second of any, whatever their order."""
    turn = pl.col("image_id").rank("ordinal").over("label")
    return records.sort("image_id", "path").with_columns(turn=turn).sort("turn", "image_id", "path").head(most)


def mistakes_sheet(predictions: pl.DataFrame, load: ReadBytes, *, part: Part = "test", most: int = 32) -> bytes:
    """JPEG of the mistakes the model was surest of, worst first, captioned with truth, prediction and confidence."""
    evaluated = predictions_of_part(predictions, part)
    worst = worst_mistakes(predictions, part=part, most=most)
    if worst.is_empty():
        return _jpeg(_message(f"No mistakes on the {evaluated.height:,} images of {part}."))
    rows = worst.select("path", "truth", "prediction", "confidence").rows()
    return _sheet([row[0] for row in rows], [_mistake(*row[1:]) for row in rows], load)


def _mistake(truth: str, said: str, confidence: float) -> Caption:
    return f"is {truth}", f"{confidence:.0%} {said}"


def worst_mistakes(predictions: pl.DataFrame, *, part: Part = "test", most: int) -> pl.DataFrame:
    """Up to `most` rows of the wrong predictions of a part, the surest first."""
    wrong = predictions_of_part(predictions, part).filter(~pl.col("correct"))
    return wrong.sort("confidence", "image_id", descending=[True, False]).head(most)


def captioned_sheet(paths: Sequence[str], captions: Sequence[Caption], load: ReadBytes) -> bytes:
    """JPEG of the pictures at these paths, each over its two lines of text; a sentence when there are none."""
    return _sheet(paths, captions, load) if paths else _jpeg(_message("Nothing was found."))


def pairs_sheet(pairs: pl.DataFrame, records: pl.DataFrame, load: ReadBytes, *, most: int = 16) -> bytes:
    """JPEG of the pairs of near duplicates that are most alike, side by side, with label and part of each image."""
    shown = (
        records.sort("image_id", "path").unique("image_id", keep="first").select("image_id", "path", "label", "split")
    )
    by_id = {image_id: facts for image_id, *facts in shown.rows()}
    nearest = pairs.sort("similarity", "image_id", "other_id", descending=[True, False, False]).head(most)
    sides = [by_id[side] for pair in nearest.select("image_id", "other_id").rows() for side in pair]
    return captioned_sheet([path for path, _, _ in sides], [(label, part) for _, label, part in sides], load)


def saliency_sheet(
    mistakes: pl.DataFrame, images_nchw: NDArray[np.uint8], maps_nhw: NDArray[np.float32], *, method: str
) -> bytes:
    """JPEG of each mistake beside itself under its map (0 to 1, bright where the evidence for the prediction is).

    `mistakes` are rows of `worst_mistakes`, `images_nchw` and `maps_nhw` theirs.
    """
    tiles, lines = [], []
    captions = [_mistake(*row) for row in mistakes.select("truth", "prediction", "confidence").rows()]
    for image_chw, map_hw, caption in zip(images_nchw, maps_nhw, captions, strict=True):
        picture = Image.fromarray(np.ascontiguousarray(image_chw.transpose(1, 2, 0)))
        tiles += [_square(picture), _square(_under_map(picture, map_hw))]
        lines += [caption, (method, "of the prediction")]
    return _tiled(tiles, lines)


def _under_map(picture: Image.Image, map_hw: NDArray[np.float32]) -> Image.Image:
    """The picture in grey, coloured the more the higher the map is."""
    grown = Image.fromarray(map_hw).resize(picture.size, Image.Resampling.BICUBIC)
    heat_hw = np.asarray(grown).clip(0, 1)
    colours_hwc = matplotlib.colormaps["inferno"](heat_hw)[..., :3] * 255
    grey_hwc = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    mixed_hwc = grey_hwc * (1 - _MOST_HEAT * heat_hw[..., None]) + colours_hwc * (_MOST_HEAT * heat_hw[..., None])
    return Image.fromarray(mixed_hwc.astype(np.uint8))


def _sheet(paths: Sequence[str], captions: Sequence[Caption], load: ReadBytes) -> bytes:
    return _tiled([_tile(load(path)) for path in paths], captions)


def _tiled(tiles: Sequence[Image.Image], captions: Sequence[Caption]) -> bytes:
    columns = min(_COLUMNS, len(tiles))
    step_x, step_y = _TILE_PX + _GAP_PX, _TILE_PX + 2 * _LINE_PX + _GAP_PX
    lines = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * step_x + _GAP_PX, lines * step_y + _GAP_PX), _BACKGROUND)
    for place, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        corner = (_GAP_PX + place % columns * step_x, _GAP_PX + place // columns * step_y)
        sheet.paste(tile, corner)
        _write(sheet, (corner[0], corner[1] + _TILE_PX + 1), caption)
    return _jpeg(sheet)


def _tile(data: bytes) -> Image.Image:
    """The whole picture, upright, in a square."""
    return _square(Image.fromarray(decode_rgb(data)))


def _square(picture: Image.Image) -> Image.Image:
    return ImageOps.pad(ImageOps.contain(picture, (_TILE_PX, _TILE_PX)), (_TILE_PX, _TILE_PX), color=_MAT)


def _write(sheet: Image.Image, corner: tuple[int, int], caption: Caption) -> None:
    draw = ImageDraw.Draw(sheet)
    for line, ink in enumerate((_INK, _FAINT_INK)):
        draw.text((corner[0], corner[1] + line * _LINE_PX), _fitting(caption[line]), font=_font(), fill=ink)


def _fitting(text: str) -> str:
    """The text, shortened from the middle until it is no wider than a tile."""
    short, keep = text, len(text)
    while _font().getlength(short) > _TILE_PX:
        keep -= 1
        short = f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
    return short


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans comes with matplotlib and has more scripts than Pillow's own."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 11)


def _message(text: str) -> Image.Image:
    picture = Image.new("RGB", (int(_font().getlength(text)) + 4 * _GAP_PX, _LINE_PX + 4 * _GAP_PX), _BACKGROUND)
    ImageDraw.Draw(picture).text((2 * _GAP_PX, 2 * _GAP_PX), text, font=_font(), fill=_INK)
    return picture


def _jpeg(picture: Image.Image) -> bytes:
    """At the best quality that fits the event log; below 40 the picture is made smaller instead."""
    while True:
        for quality in (85, 75, 60, 40):
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= MAX_PICTURE_BYTES:
                return buffer.getvalue()
        picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5), Image.Resampling.LANCZOS)
