"""What all plots share: their look, names as text, and PNG bytes small enough for Dagster's event log."""

from __future__ import annotations

import base64
import io
import warnings
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Dagster's event log carries pictures inside Markdown.
MAX_PICTURE_BYTES = 100_000

# Okabe and Ito's palette, told apart with any colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#7F7F7F"

_LABEL_LENGTH = 24


class PictureTooLarge(ValueError):
    """A picture that the event log should not carry."""


def as_markdown(picture: bytes, *, alt: str = "picture") -> str:
    """A PNG or JPEG inside Markdown, as a data URI. Raises PictureTooLarge over MAX_PICTURE_BYTES."""
    if len(picture) > MAX_PICTURE_BYTES:
        raise PictureTooLarge(
            f"{alt} has {len(picture):,} bytes, the event log takes {MAX_PICTURE_BYTES:,}; write it to a file instead"
        )
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"![{alt}](data:image/{kind};base64,{base64.b64encode(picture).decode()})"


def blank_figure(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    """One plot, without the lines above and at the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def legend_above(axes: Axes) -> None:
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8)


def shown(name: str) -> str:
    """A class name as text of a plot: its ends when it is long, and no dollar sign that matplotlib takes for maths."""
    short = name if len(name) <= _LABEL_LENGTH else f"{name[: _LABEL_LENGTH - 11]}…{name[-10:]}"
    return short.replace("$", r"\$")


def as_png(figure: Figure) -> bytes:
    """256 colours, at the finest of four resolutions that fits the event log."""
    size = 0
    for dpi in (110, 90, 70, 50):
        drawn, buffer = io.BytesIO(), io.BytesIO()
        with warnings.catch_warnings():
            # A class name in a script that DejaVu Sans lacks shows as boxes; tables carry it as it is.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(drawn, format="png", dpi=dpi)
        Image.open(drawn).convert("RGB").quantize(256).save(buffer, "PNG", optimize=True)
        size = buffer.tell()
        if size <= MAX_PICTURE_BYTES:
            return buffer.getvalue()
    raise PictureTooLarge(f"the plot has {size:,} bytes at its coarsest, {MAX_PICTURE_BYTES:,} are allowed; show less")
