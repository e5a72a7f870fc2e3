"""Line charts as SVG that takes the colours and the font of its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

COLOURS = 6  # classes line0 to line5 of the page's style

_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 38


@dataclass(frozen=True, kw_only=True)
class Line:
    """points are (x, y), at least one, by x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Lines over one pair of axes, the higher the better; `x_label` and `y_label` carry the units."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]

    @property
    def in_words(self) -> str:
        """What someone is told who cannot see it: where each line ends, and its best."""
        said = (
            f"{ln.name} ends at {ln.points[-1][1]:.4f}, best {max(y for _, y in ln.points):.4f}" for ln in self.lines
        )
        return f"{self.y_label} by {self.x_label}: {'; '.join(said)}."


def svg(chart: LineChart) -> Markup:
    """One chart; names and labels are escaped."""
    x_ticks, y_ticks = (_ticks([point[axis] for ln in chart.lines for point in ln.points]) for axis in (0, 1))
    frame = _Frame(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    parts = [*_axes(chart, frame, x_ticks, y_ticks), *_lines(chart, frame)]
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return head.format(_WIDTH, _HEIGHT, chart.in_words) + Markup("").join(parts) + Markup("</svg>")


@dataclass(frozen=True)
class _Frame:
    """The ranges of the axes, and where a point of them lies in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> str:
        return f"{_LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def y(self, value: float) -> str:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return f"{_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM):.1f}"


def _ticks(values: Sequence[float]) -> list[float]:
    """Four or so round numbers around all values, two of them different."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.05 * (abs(low) or 1), high + 0.05 * (abs(high) or 1)
    whole = all(value == round(value) for value in values)
    return [float(tick) for tick in MaxNLocator(4, integer=whole, min_n_ticks=2).tick_values(low, high)]


def _axes(chart: LineChart, frame: _Frame, x_ticks: list[float], y_ticks: list[float]) -> Iterator[Markup]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in y_ticks:
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _LEFT, right, frame.y(tick), frame.y(tick)
        )
        yield Markup('<text x="{}" y="{}" text-anchor="end" dy="4">{:g}</text>').format(
            _LEFT - 5, frame.y(tick), round(tick, 6)
        )
    for tick in x_ticks:
        yield Markup('<text x="{}" y="{}" text-anchor="middle">{:g}</text>').format(
            frame.x(tick), bottom + 14, round(tick, 6)
        )
    yield Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
        (_LEFT + right) / 2, _HEIGHT - 6, chart.x_label
    )


def _lines(chart: LineChart, frame: _Frame) -> Iterator[Markup]:
    for number, ln in enumerate(chart.lines):
        places = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in ln.points)
        yield Markup('<polyline class="line{}" points="{}"/>').format(number % COLOURS, places)
        x, y = ln.points[-1]
        yield Markup('<circle class="line{}" cx="{}" cy="{}" r="2.5"><title>{}: {:.4f}</title></circle>').format(
            number % COLOURS, frame.x(x), frame.y(y), ln.name, y
        )
