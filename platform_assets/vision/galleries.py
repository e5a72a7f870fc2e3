"""Sheets of thumbnails with captions, small enough for Dagster's event log."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import polars as pl
from PIL import Image, ImageDraw, ImageFont, ImageOps

from platform_assets.vision.decoding import decode_rgb
from platform_assets.vision.evaluation import predictions_of_part
from platform_assets.vision.figures import MAX_PICTURE_BYTES
from platform_assets.vision.splits import Part

Load = Callable[[str], bytes]
Caption = tuple[str, str]

_COLUMNS = 8
_TILE_PX = 112
_GAP_PX = 6
_LINE_PX = 14
_BACKGROUND, _MAT, _INK, _FAINT_INK = "white", "#E8E8E8", "black", "#606060"


class NothingToShow(ValueError):
    """A contact sheet of no images."""


def contact_sheet(records: pl.DataFrame, load: Load, *, most: int = 48) -> bytes:
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


def mistakes_sheet(predictions: pl.DataFrame, load: Load, *, part: Part = "test", most: int = 32) -> bytes:
    """JPEG of the mistakes the model was surest of, worst first, captioned with truth, prediction and confidence."""
    evaluated = predictions_of_part(predictions, part)
    wrong = evaluated.filter(~pl.col("correct"))
    worst = wrong.sort("confidence", "image_id", descending=[True, False]).head(most)
    if worst.is_empty():
        return _jpeg(_message(f"No mistakes on the {evaluated.height:,} images of {part}."))
    rows = worst.select("path", "truth", "prediction", "confidence").rows()
    captions = [(f"is {truth}", f"{confidence:.0%} {said}") for _, truth, said, confidence in rows]
    return _sheet([row[0] for row in rows], captions, load)


def captioned_sheet(paths: Sequence[str], captions: Sequence[Caption], load: Load) -> bytes:
    """JPEG of the pictures at these paths, each over its two lines of text; a sentence when there are none."""
    return _sheet(paths, captions, load) if paths else _jpeg(_message("Nothing was found."))


def pairs_sheet(pairs: pl.DataFrame, records: pl.DataFrame, load: Load, *, most: int = 16) -> bytes:
    """JPEG of the pairs of near duplicates that are most alike, side by side, with label and part of each image."""
    shown = (
        records.sort("image_id", "path").unique("image_id", keep="first").select("image_id", "path", "label", "split")
    )
    by_id = {image_id: facts for image_id, *facts in shown.rows()}
    nearest = pairs.sort("similarity", "image_id", "other_id", descending=[True, False, False]).head(most)
    sides = [by_id[side] for pair in nearest.select("image_id", "other_id").rows() for side in pair]
    return captioned_sheet([path for path, _, _ in sides], [(label, part) for _, label, part in sides], load)


def _sheet(paths: Sequence[str], captions: Sequence[Caption], load: Load) -> bytes:
    columns = min(_COLUMNS, len(paths))
    step_x, step_y = _TILE_PX + _GAP_PX, _TILE_PX + 2 * _LINE_PX + _GAP_PX
    lines = -(-len(paths) // columns)
    sheet = Image.new("RGB", (columns * step_x + _GAP_PX, lines * step_y + _GAP_PX), _BACKGROUND)
    for place, (path, caption) in enumerate(zip(paths, captions, strict=True)):
        corner = (_GAP_PX + place % columns * step_x, _GAP_PX + place // columns * step_y)
        sheet.paste(_tile(load(path)), corner)
        _write(sheet, (corner[0], corner[1] + _TILE_PX + 1), caption)
    return _jpeg(sheet)


def _tile(data: bytes) -> Image.Image:
    """The whole picture, upright, in a square."""
    picture = ImageOps.contain(Image.fromarray(decode_rgb(data)), (_TILE_PX, _TILE_PX))
    return ImageOps.pad(picture, (_TILE_PX, _TILE_PX), color=_MAT)


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
