"""Plots: PNG files that fit the event log at every number of classes and show the numbers they were given."""

import base64
import io
import sys
import warnings
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from PIL import Image

from platform_assets.vision.views import plots
from platform_assets.vision.views.embedding_maps import embedding_map
from platform_assets.vision.views.figures import MAX_PICTURE_BYTES, PictureTooLarge, as_markdown, shown

NAMES = ("apple $1", "Golden-Delicious apples of the year, second box", "苹果", "Äpfel_Birnen")


def _names(classes: int) -> list[str]:
    return [f"{NAMES[i % len(NAMES)]} {i}" for i in range(classes)]


def _counts(classes: int) -> pl.DataFrame:
    train = np.random.default_rng(0).integers(1, 5000, classes)
    frame = pl.DataFrame({"label": _names(classes), "train": train, "val": train // 9, "test": train // 4})
    return frame.with_columns(total=pl.sum_horizontal("train", "val", "test"))


def _matrix(classes: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    matrix = random.poisson(0.3, (classes, classes)) + np.diag(random.poisson(30, classes))
    return [[int(value) for value in row] for row in matrix]


def _history(epochs: int) -> pl.DataFrame:
    course = [
        {"epoch": i + 1, "train_loss": 1 / (i + 1), "val_loss": 1.2 / (i + 1), "val_metric": 1 - 0.5 / (i + 1)}
        for i in range(epochs)
    ]
    return pl.DataFrame(course)


def _candidates(points: int) -> pl.DataFrame:
    grid = list(range(points))
    return pl.DataFrame({"log10_c": grid, "chosen": [i == 0 for i in grid]}).with_columns(
        train_metric=pl.lit(0.9), val_metric=pl.lit(0.8), val_loss=pl.lit(0.5)
    )


def _board(variants: int) -> pl.DataFrame:
    means = np.linspace(0.9, 0.3, variants)
    return pl.DataFrame(
        {
            "variant": _names(variants),
            "metric": ["macro_f1"] * variants,
            "test_mean": means,
            "test_low": means - 0.05,
            "test_high": means + 0.02,
            "difference": [*(0.1 for _ in range(variants - 1)), None],
        }
    )


BINS = pl.DataFrame(
    {"low": [0.4, 0.8], "high": [0.6, 1.0], "images": [3, 9], "confidence": [0.5, 0.93], "accuracy": [1 / 3, 1.0]}
)

LATENCY = pl.DataFrame(
    {
        **{"engine": ["torch", "onnxruntime"], "batch_size": [1, 8], "p50_ms": [9.0, 30.0]},
        **{"p95_ms": [12.0, 31.0], "images_per_s": [111.0, 266.0]},
    }
)


def _embedding_map(images: int, classes: int, dim: int) -> bytes:
    names = _names(classes)
    vectors = np.random.default_rng(0).normal(size=(images, dim)).astype(np.float32)
    return embedding_map(vectors, [names[i % classes] for i in range(images)])


PICTURES: dict[str, Callable[[], bytes]] = {
    **{f"class_balance_{k}": lambda k=k: plots.class_balance(_counts(k)) for k in (1, 2, 60, 61, 200)},
    **{f"confusion_matrix_{k}": lambda k=k: plots.confusion_matrix(_matrix(k), _names(k)) for k in (2, 25, 60, 200)},
    **{f"learning_curves_{n}": lambda n=n: plots.learning_curves(_history(n), metric="top1") for n in (1, 300)},
    **{
        f"regularization_{n}": lambda n=n: plots.selection_curve(_candidates(n), option="log10_c", metric="top1")
        for n in (1, 13)
    },
    **{f"leaderboard_{n}": lambda n=n: plots.leaderboard_bars(_board(n)) for n in (1, 30)},
    **{f"embedding_map_{k}": lambda k=k: _embedding_map(300, k, 8) for k in (1, 10, 81)},
    "embedding_map_of_equal_vectors": lambda: embedding_map(np.ones((4, 3), np.float32), ["a", "b", "a", "b"]),
    "latency": lambda: plots.latency_bars(LATENCY),
    "reliability": lambda: plots.reliability_diagram(BINS),
}


@pytest.mark.parametrize("name", PICTURES)
def test_plots__fit_the_event_log_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = PICTURES[name]()
    assert len(picture) <= MAX_PICTURE_BYTES
    image = Image.open(io.BytesIO(picture))
    assert image.format == "PNG"
    assert min(image.size) >= 120
    assert len(image.convert("RGB").getcolors(1 << 24) or []) > 4, "an empty picture"


def test_plots__same_numbers_same_bytes_and_no_pyplot() -> None:
    """pyplot keeps every figure until it is closed, and is not safe in threads."""
    assert plots.class_balance(_counts(5)) == plots.class_balance(_counts(5).reverse())
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_confusion_matrix__rows_are_the_truth() -> None:
    """The dark cell is at the right of the first row when class 0 is always taken for class 1."""
    pixels = np.asarray(Image.open(io.BytesIO(plots.confusion_matrix([[0, 9], [0, 0]], ["a", "b"]))).convert("L"))
    rows, columns = np.nonzero(pixels == _darkest_blue_grey(pixels))
    height, width = pixels.shape
    assert rows.mean() < height / 2
    assert columns.mean() > width / 3


def _darkest_blue_grey(pixels: np.ndarray) -> int:
    """Grey value of the map's deepest colour, which fills more of the picture than any other but the background."""
    levels, counts = np.unique(pixels, return_counts=True)
    dark = (levels > 20) & (levels < 90)
    return int(levels[dark][counts[dark].argmax()])


def test_confusion_matrix__names_the_worst_pairs_when_cells_are_too_small() -> None:
    names = [f"c{i}" for i in range(30)]
    matrix = np.diag([5] * 30)
    matrix[3, 7] = 4
    assert plots._worst_pairs(matrix, names) == "c3 as c7 (4)"
    assert plots._worst_pairs(np.diag([5] * 30), names) == "none"


def test_shown__long_names_stay_apart() -> None:
    assert shown("Arla-Standard-Milk-with-fat") != shown("Arla-Standard-Milk-with-no-fat")
    assert shown("5 $ and 6 $") == r"5 \$ and 6 \$"


def test_as_markdown__carries_the_bytes_and_their_kind() -> None:
    picture = plots.reliability_diagram(BINS)
    text = as_markdown(picture, alt="reliability")
    assert text.startswith("![reliability](data:image/png;base64,")
    assert base64.b64decode(text.split("base64,")[1].rstrip(")")) == picture
    assert as_markdown(b"\xff\xd8\xff").startswith("![picture](data:image/jpeg;base64,")


def test_as_markdown__picture_over_the_limit_is_refused() -> None:
    with pytest.raises(PictureTooLarge, match="100,001 bytes"):
        as_markdown(bytes(MAX_PICTURE_BYTES + 1))
