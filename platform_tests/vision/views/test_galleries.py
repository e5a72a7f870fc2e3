"""Contact sheets: which images are on them, upright, and small enough for the event log."""

import hashlib
import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from platform_assets.vision.evaluation.predictions import EvaluationError
from platform_assets.vision.views.figures import MAX_PICTURE_BYTES
from platform_assets.vision.views.galleries import (
    NothingToShow,
    contact_sheet,
    mistakes_sheet,
    saliency_sheet,
    worst_mistakes,
)


def _noise_file(seed: int, kind: str = "PNG") -> bytes:
    """Noise is the worst case for a compressor."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (130, 130, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def _records(labels: list[str]) -> pl.DataFrame:
    ids = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(len(labels))]
    paths = [f"{i}.png" for i in range(len(labels))]
    return pl.DataFrame(
        {"image_id": ids, "path": paths, "label": labels, "split": ["train"] * len(labels)},
    )


class Loader:
    """Gives generated files and remembers which were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, path: str) -> bytes:
        self.asked.append(path)
        return _noise_file(int(Path(path).stem))


def test_contact_sheet__stays_under_the_limit_and_does_not_depend_on_row_order() -> None:
    records = _records([f"label {i % 5}" for i in range(100)])
    sheet = contact_sheet(records, Loader())
    assert sheet[:2] == b"\xff\xd8"
    assert len(sheet) <= MAX_PICTURE_BYTES
    assert contact_sheet(records.sample(fraction=1, shuffle=True, seed=3), Loader()) == sheet


def test_contact_sheet__copies_of_an_image_do_not_depend_on_row_order() -> None:
    records = _records(["a"] * 4).with_columns(image_id=pl.lit("0" * 64))
    load, again = Loader(), Loader()
    contact_sheet(records, load, most=2)
    contact_sheet(records.reverse(), again, most=2)
    assert load.asked == again.asked == ["0.png", "1.png"]


def test_contact_sheet__classes_take_turns() -> None:
    """One class of 90 images and two of 5: nine tiles show three of each."""
    records, load = _records(["many"] * 90 + ["few"] * 5 + ["rare"] * 5), Loader()
    contact_sheet(records, load, most=9)
    shown = records.filter(pl.col("path").is_in(load.asked))["label"].value_counts().sort("label")
    assert shown.rows() == [("few", 3), ("many", 3), ("rare", 3)]


def test_contact_sheet__undecided_parts_and_long_names_are_captioned() -> None:
    records = _records(["a label much longer than its tile is wide", "苹果"]).with_columns(
        split=pl.lit(None, pl.String)
    )
    assert Image.open(io.BytesIO(contact_sheet(records, Loader()))).size[0] == 2 * 118 + 6


def test_contact_sheet__turns_pictures_upright() -> None:
    """A phone stores a photograph lying on its side with an EXIF note; the left half here is the sky."""
    stored = Image.new("RGB", (100, 100), "black")
    stored.paste((0, 0, 255), (0, 0, 50, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees: left becomes top
    buffer = io.BytesIO()
    stored.save(buffer, "JPEG", exif=exif, quality=95)
    sheet = Image.open(io.BytesIO(contact_sheet(_records(["a"]), lambda _: buffer.getvalue())))
    blue = [np.asarray(sheet.crop(box)).astype(int)[..., 2].mean() for box in ((20, 10, 100, 50), (20, 75, 100, 110))]
    assert blue[0] > 200 > 50 > blue[1]


def test_contact_sheet__no_records_is_an_error() -> None:
    with pytest.raises(NothingToShow, match="records table is empty"):
        contact_sheet(_records([]), Loader())


def _predictions() -> pl.DataFrame:
    records = _records(["a"] * 40)
    rows = np.arange(40)
    return records.select("image_id", "path", part=pl.lit("test"), truth="label").with_columns(
        prediction=pl.Series(["b" if i % 2 else "a" for i in rows]),
        correct=pl.Series([i % 2 == 0 for i in rows]),
        confidence=pl.Series((rows / 40).astype(np.float32)),
    )


def test_mistakes_sheet__surest_mistakes_first() -> None:
    load = Loader()
    sheet = mistakes_sheet(_predictions(), load, most=3)
    assert load.asked == ["39.png", "37.png", "35.png"]
    assert len(sheet) <= MAX_PICTURE_BYTES


def test_mistakes_sheet__equal_confidence_is_ordered_by_content() -> None:
    load, again = Loader(), Loader()
    same = _predictions().with_columns(confidence=pl.lit(0.5))
    assert mistakes_sheet(same, load, most=5) == mistakes_sheet(same.reverse(), again, most=5)
    assert load.asked == again.asked


def test_mistakes_sheet__none_says_so_without_reading_an_image() -> None:
    load = Loader()
    sheet = mistakes_sheet(_predictions().with_columns(correct=pl.lit(True)), load)
    assert load.asked == []
    assert np.asarray(Image.open(io.BytesIO(sheet))).std() > 10


def test_mistakes_sheet__part_without_predictions_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="part 'val': no predictions"):
        mistakes_sheet(_predictions(), Loader(), part="val")


def test_worst_mistakes__are_of_the_part_and_the_surest_first() -> None:
    frame = pl.DataFrame(
        {
            "image_id": list("abcde"),
            "part": ["test", "test", "val", "test", "test"],
            "path": [f"{n}.png" for n in range(5)],
            "correct": [False, True, False, False, False],
            "confidence": [0.6, 0.99, 0.98, 0.7, 0.7],
        }
    )
    assert worst_mistakes(frame, most=2)["image_id"].to_list() == ["d", "e"]
    assert worst_mistakes(frame, most=9)["image_id"].to_list() == ["d", "e", "a"]


def test_saliency_sheet__the_heat_lies_where_the_map_is_high() -> None:
    mistakes = pl.DataFrame({"truth": ["cat"], "prediction": ["dog"], "confidence": [0.9]})
    grey = np.full((1, 3, 64, 64), 90, dtype=np.uint8)
    map_hw = np.zeros((4, 4), dtype=np.float32)
    map_hw[0, 3] = 1
    sheet = saliency_sheet(mistakes, grey, map_hw[None], method="Grad-CAM")
    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB")).astype(int)
    coloured = np.abs(pixels[..., 0] - pixels[..., 2])
    places = np.argwhere(coloured > 60)
    # Of the two tiles of 112 pixels the heat is in the second, at its top right.
    assert places[:, 1].min() > 6 + 112 + 6 + 56
    assert places[:, 0].max() < 6 + 56
    assert len(sheet) <= MAX_PICTURE_BYTES
