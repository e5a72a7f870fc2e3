"""Pictures that are hard to learn from: blurred, dark, bright, empty, of an odd shape or size. Labels are not judged here.

2026-11: five of the six measures are cleanvision's (0.3.7) with its thresholds. The library itself is not used: it opens
files itself (another picture than ours where EXIF turns it), one file that is no image ends it, it takes 3.6 times the
CPU (6.1 beside 1.7 ms for a decoded image of elpv), and its blur is the picture's border, which Pillow's filter leaves
as it is: elpv blurred by 16 pixels has a median spread of edges of 28.6 beside 44.2 sharp, without the border 2.4 and 40.7.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from platform_assets.vision.images.image_files import ReadBytes

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray
    from PIL import Image


THRESHOLDS = {"dark": 0.32, "bright": 0.05, "low_information": 0.3, "blur": 0.13, "odd_aspect": 0.35, "odd_size": 0.5}
"""A picture that scores below is at fault."""

_BRIGHTNESS_SIDE_PX = 256
_BLUR_SIDE_PX = 64
_BLUR_SCALE = 0.01
_ENTROPY_SCALE = 0.1
_QUARTILE_RANGES = 3.0


class PixelScores(NamedTuple):
    """Scores of one picture by its pixels, 0 to 1, 1 is sound."""

    dark: float
    bright: float
    low_information: float
    blur: float


def scores_by_pixels(records: pl.DataFrame, read: ReadBytes, known: pl.DataFrame | None = None) -> pl.DataFrame:
    """image_id and PixelScores of every image. `read` gives the bytes of a path; those of images in `known`, an earlier
    result, are not asked for."""
    import polars as pl

    from platform_assets.vision.datasets.inspection import in_threads
    from platform_assets.vision.images.decoding import decode_rgb

    images, columns = _once(records), dict.fromkeys(PixelScores._fields, pl.Float64)
    taken = pl.DataFrame(schema={"image_id": pl.String, **columns}) if known is None else known
    new = images.join(taken, on="image_id", how="anti", maintain_order="left")
    seen = in_threads(lambda path: pixel_scores(decode_rgb(read(path))), new["path"])
    scores = pl.DataFrame(list(seen), schema=columns, orient="row").insert_column(0, new["image_id"])
    return pl.concat([taken.join(images, on="image_id", how="semi"), scores]).sort("image_id")


def image_faults(records: pl.DataFrame, by_pixels: pl.DataFrame) -> pl.DataFrame:
    """One row an image and fault: image_id, path, fault, score, the worst first.

    Faults by pixels: dark, bright, low_information, blur, of `scores_by_pixels`. By the records: odd_aspect and
    odd_size, beyond three quartile ranges of the others. Scores are 0 to 1, 1 is sound; different faults are ranked by
    score over threshold.
    """
    import polars as pl

    images = _once(records)
    scores = images.select("image_id", "path", **_shape_scores(images)).join(by_pixels, on="image_id")
    each = scores.unpivot(list(THRESHOLDS), index=["image_id", "path"], variable_name="fault", value_name="score")
    threshold = pl.col("fault").replace_strict(THRESHOLDS, return_dtype=pl.Float64)
    return (
        each.with_columns(relative=pl.col("score") / threshold)
        .filter(pl.col("relative") < 1)
        .sort("relative", "fault", "image_id")
        .drop("relative")
    )


def _once(records: pl.DataFrame) -> pl.DataFrame:
    return records.sort("image_id", "path").unique("image_id", keep="first", maintain_order=True)


def pixel_scores(pixels_hwc: NDArray[np.uint8]) -> PixelScores:
    """dark: brightness of the lightest hundredth; bright: darkness of the darkest twentieth; low_information: entropy of
    the RGB histogram; blur: spread of edges at 64 px.

    Brightness is the perceived one of the HSP colour model.
    """
    from PIL import Image, ImageFilter, ImageStat

    picture = Image.fromarray(pixels_hwc)
    darkest, lightest = _brightness_range(picture)
    grey = _at_most(picture, _BLUR_SIDE_PX).convert("L")
    inside = (1, 1, max(2, grey.width - 1), max(2, grey.height - 1))
    edges = math.sqrt(ImageStat.Stat(grey.filter(ImageFilter.FIND_EDGES).crop(inside)).var[0])
    return PixelScores(
        dark=lightest,
        bright=1 - darkest,
        low_information=min(1.0, picture.entropy() * _ENTROPY_SCALE),
        blur=1 - math.exp(-_BLUR_SCALE * edges),
    )


def _brightness_range(picture: Image.Image) -> tuple[float, float]:
    """The brightness, 0 to 1, that 5 and 99 % of the pixels do not exceed. On a reduced picture: a third of the time."""
    import numpy as np

    factor = max(1, math.ceil(max(picture.size) / _BRIGHTNESS_SIDE_PX))
    squares_hwc = np.asarray(picture.reduce(factor), dtype=np.float32) ** 2
    brightness_hw = np.sqrt(squares_hwc @ np.array([0.241, 0.691, 0.068], dtype=np.float32)) / 255
    darkest, lightest = np.percentile(brightness_hw, [5, 99])
    return float(darkest), float(lightest)


def _at_most(picture: Image.Image, side_px: int) -> Image.Image:
    ratio = max(picture.size) / side_px
    if ratio <= 1:
        return picture
    return picture.resize((max(1, int(picture.width // ratio)), max(1, int(picture.height // ratio))))


def _shape_scores(images: pl.DataFrame) -> dict[str, pl.Expr]:
    """odd_aspect: short side over long side. odd_size: 1 in the middle of the usual sizes, 0.5 at their ends."""
    import polars as pl

    width, height = pl.col("width").cast(pl.Float64), pl.col("height").cast(pl.Float64)
    sizes = images.select(size=(width * height).sqrt())["size"]
    first, third = sizes.quantile(0.25, "linear") or 0.0, sizes.quantile(0.75, "linear") or 0.0
    low, high = first - _QUARTILE_RANGES * (third - first), third + _QUARTILE_RANGES * (third - first)
    middle, span = (low + high) / 2, high - low
    distance = ((width * height).sqrt() - middle).abs()
    # Where nearly all sizes agree, one within half of them to twice them is not odd.
    reach = max(span, middle)
    return {
        "odd_aspect": pl.min_horizontal(width / height, height / width),
        "odd_size": 1 - (distance / reach).clip(0, 1),
    }
