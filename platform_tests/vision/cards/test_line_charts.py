"""Line charts: every point lies inside the picture, and the highest is on top."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from platform_assets.vision.cards.line_charts import Line, LineChart, svg

FIGURE = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 4))
POINTS = st.lists(st.tuples(FIGURE, FIGURE), min_size=1, max_size=8).map(lambda points: tuple(sorted(points)))


@given(st.lists(POINTS, min_size=1, max_size=4))
def test_svg__points_lie_inside(lines: list[tuple[tuple[float, float], ...]]) -> None:
    named = tuple(Line(name=f"<{n}>", points=points) for n, points in enumerate(lines))
    root = ET.fromstring(svg(LineChart(title="t", x_label="log10 C", y_label="val top1", lines=named)))
    _, _, width, height = (float(value) for value in root.attrib["viewBox"].split())
    drawn = [each.attrib["points"].split() for each in root.findall("polyline")]
    assert [len(places) for places in drawn] == [len(points) for points in lines]
    for places, points in zip(drawn, lines, strict=True):
        found = [tuple(float(value) for value in place.split(",")) for place in places]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in found)
        assert min(y for _, y in found) == found[max(range(len(points)), key=lambda n: points[n][1])][1]
    assert (root.findtext("circle/title") or "").startswith("<0>: ")
