"""The report of an experiment as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup, escape

from platform_assets.vision.cards.line_charts import LineChart, svg
from platform_assets.vision.cards.pages import picture_uri, rendered
from platform_assets.vision.cards.report_facts import ReportFacts
from platform_assets.vision.cards.thumbnails import data_uris
from platform_assets.vision.images.image_files import ReadBytes

_MISTAKES_BYTES = 700_000
_TABLE_ROWS = 1000
_SEEDS_SHOWN = 10

_WIDE = ("embedding_map.png", "saliency.jpg", "parts.png")
# File name among the views of a trial to title and alternative text.
PICTURES = {
    "confusion.png": ("Confusion", "Confusion matrix: truth in rows, prediction in columns; the numbers are images."),
    "reliability.png": (
        "Reliability",
        "Accuracy against confidence in equal bins, beside the line of a calibrated model.",
    ),
    "embedding_map.png": (
        "Embedding map",
        "A sample of test by t-SNE of its vectors, coloured by true class and by whether the prediction is right.",
    ),
    "saliency.jpg": (
        "Where the evidence lies",
        "Worst mistakes beside themselves under a map that is bright where the evidence for the prediction lies.",
    ),
    "parts.png": ("Parts", "Test images with the patches boxed that the last block of the model read."),
}


def report_page(facts: ReportFacts, load: ReadBytes) -> str:
    """The page, 2 MB or so. `load` gives the bytes of a path of the mistakes. Raises LostImage.

    Whatever comes from data is escaped, and a content security policy lets no script run but the page's own and nothing
    be fetched.
    """
    mistakes = facts.shown.mistakes.to_dicts()
    uris = data_uris([row["path"] for row in mistakes], load, most_bytes=_MISTAKES_BYTES)
    trials = facts.trials.sort(f"val_{facts.metric}", descending=True).head(_TABLE_ROWS)
    return rendered(
        "report_page.html",
        facts=facts,
        board=list(_board_rows(facts)),
        words=[as_code(line.removeprefix("- ")) for line in facts.words],
        charts=[(chart, svg(chart), _legend(chart)) for chart in facts.charts],
        classes=[entry.model_dump() for entry in facts.shown.test.per_class][:_TABLE_ROWS],
        mistakes=list(zip(mistakes, uris, strict=True)),
        pictures=list(_pictures(facts)),
        trials=trials.to_dicts(),
    )


def as_code(line: str) -> Markup:
    """A sentence with what stands between backticks as code; everything is escaped."""
    pieces = [escape(piece) for piece in line.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else p for n, p in enumerate(pieces))


def _board_rows(facts: ReportFacts) -> Iterator[dict[str, Any]]:
    """Rows of the leaderboard with the value of each seed and, in percent of the widest, where its bar and interval lie."""
    most = max([1e-9, *facts.board["test_high"].drop_nulls()])
    for row in facts.board.head(_TABLE_ROWS).to_dicts():
        low, high = 100 * row["test_low"] / most, 100 * row["test_high"] / most
        bar = {"mean": 100 * row["test_mean"] / most, "low": low, "width": max(high - low, 0.5)}
        each, more = row["test_values"][:_SEEDS_SHOWN], len(row["test_values"]) - _SEEDS_SHOWN
        said = ", ".join(f"{value:.4f}" for value in each) + (f" and {more} more" if more > 0 else "")
        yield row | {"each_seed": said, "bar": bar}


def _legend(chart: LineChart) -> list[str]:
    return [line.name for line in chart.lines]


def _pictures(facts: ReportFacts) -> Iterator[tuple[str, str, str, bool]]:
    """Title, alternative text, picture, and whether it needs the whole width."""
    for name, (title, alt) in PICTURES.items():
        if name in facts.shown.pictures:
            yield title, alt, picture_uri(facts.shown.pictures[name]), name in _WIDE
