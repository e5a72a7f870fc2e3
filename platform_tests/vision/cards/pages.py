"""What every page of ours is held to, as a parser and as a browser see it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

CHROMIUM = shutil.which("chromium")


class Elements(HTMLParser):
    """All elements of a page, with their attributes, and the text of its body."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def require_alone(page: str) -> None:
    """No address but the page's own, no handler in an attribute, and a policy that lets nothing be fetched."""
    elements = Elements(page)
    for attributes in (attributes for _, attributes in elements.found):
        for name in {"src", "href", "srcset", "action", "data", "poster", "background"} & attributes.keys():
            assert (attributes[name] or "").startswith(("data:", "#"))
        assert not [name for name in attributes if name.startswith("on")]
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert not re.search(r"url\(|@import", "".join(styles) + "".join(a.get("style") or "" for _, a in elements.found))
    policy = next(a["content"] for a in elements.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "http" not in policy


def require_accessible(page: str) -> None:
    """Names for pictures, heads and tables, headings without gaps, links that lead somewhere."""
    elements = Elements(page)
    assert all(picture["alt"] for picture in elements.named("img"))
    assert all(picture["aria-label"] for picture in elements.named("svg"))
    assert all(head.get("scope") in {"col", "row"} for head in elements.named("th"))
    assert len(elements.named("table")) == len(elements.named("caption"))
    headings = [int(tag[1]) for tag, _ in elements.found if re.fullmatch(r"h\d", tag)]
    assert headings.count(1) == 1
    assert all(deeper - above <= 1 for above, deeper in pairwise(headings))
    ids = {attributes.get("id") for _, attributes in elements.found}
    assert {(link["href"] or "")[1:] for link in elements.named("a")} <= ids


def with_script(page: str, script: str) -> str:
    """The page with a script of ours at its end, which its policy lets run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = page.replace("script-src ", f"script-src 'sha256-{digest}' ")
    return allowed.replace("</body>", f"<script>{script}</script></body>")


def browse(page: Path, *flags_more: str) -> tuple[str, list[str], set[str]]:
    """The DOM after scripts ran, lines of the console, and every address that the page asked for."""
    log = page.with_suffix(".netlog")
    flags = "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update"
    done = subprocess.run(
        [
            *(CHROMIUM or "", *(f"--{flag}" for flag in flags.split()), "--disable-sync", "--enable-logging=stderr"),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            *(
                f"--user-data-dir={page.parent / 'profile'}",
                f"--log-net-log={log}",
                *flags_more,
                "--dump-dom",
                page.as_uri(),
            ),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(page.parent)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    # Chromium asks its makers for this and that on its own; those requests have no page as their initiator.
    asked = re.findall(r'"initiator":"(?!not an origin)[^"]*".*?"url":"((?!data:)[^"]+)"', log.read_text())
    return done.stdout, console, set(asked)
