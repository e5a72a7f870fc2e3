"""Pages that need no other file and no network: the templates, what they write numbers with, the script that sorts tables."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from platform_assets.vision.cards.markdown import number

_TEMPLATES = Path(__file__).parents[2] / "templates"
_SCRIPT = "sorted_tables.js"


def rendered(template: str, **values: Any) -> str:
    """The page of a template. It names `script` and `script_hash`, by which its policy lets that one script run.

    Whatever comes from data is escaped.
    """
    script = (_TEMPLATES / _SCRIPT).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _environment().get_template(template).render(script=Markup(script), script_hash=digest, **values)


def picture_uri(picture: bytes) -> str:
    """A PNG, JPEG or WebP as a data URI."""
    kinds = {b"\xff\xd8": "jpeg", b"RI": "webp"}
    return f"data:image/{kinds.get(picture[:2], 'png')};base64,{base64.b64encode(picture).decode()}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["number"] = lambda value: f"{value:,.0f}" if value == round(value) else number(value)
    environment.filters["figure"] = lambda value: "-" if value is None else number(value)
    return environment
