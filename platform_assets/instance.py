"""The .env file through which every dagster command finds this project's instance; it reads no variable itself."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

HEADER = "# Written by `python -m platform_assets.instance`. Your own lines below are kept."


class NotAProject(ValueError):
    """The folder cannot hold a Dagster instance of ours."""


def write_env(root: Path) -> Path:
    """Writes `root/.env`, keeps the user's own lines in it and returns its path.

    `dagster`, `dagster dev` and `dg` read .env from the working directory alone, and take DAGSTER_HOME from it in place
    of an exported one. DAGSTER_HOME must be absolute, so .env is rewritten when a checkout moves.

    Raises NotAProject when `root` has no dagster.yaml, or its path cannot be written in .env syntax.
    """
    root = root.resolve()
    if not (root / "dagster.yaml").is_file():
        raise NotAProject(f"{root}: no dagster.yaml here; run this in the project's root, beside dagster.yaml")
    settings = _settings(root)
    env_file = root / ".env"
    kept = _own_lines(env_file.read_text(encoding="utf-8"), settings) if env_file.exists() else []
    lines = [HEADER, *(f"{key}={_quoted(value)}" for key, value in settings.items()), *kept]
    _replace(env_file, "\n".join(lines) + "\n")
    return env_file


def _settings(root: Path) -> dict[str, str]:
    return {
        "DAGSTER_HOME": str(root),
        # 2026-11, dagster 1.13: although dagster.yaml switches telemetry off, `dagster dev` makes logs/ and
        # .logs_queue/ in DAGSTER_HOME, which is the checkout. This variable stops the thread that does it.
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


def _own_lines(text: str, settings: dict[str, str]) -> list[str]:
    ours = re.compile(rf"\s*(export\s+)?({'|'.join(settings)})\s*=")
    return [line for line in text.splitlines() if line != HEADER and not ours.match(line)]


def _quoted(value: str) -> str:
    if "${" in value or "\n" in value:
        raise NotAProject(f"{value!r}: a path with '${{' or a line break does not survive .env; move the project")
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.touch(mode=0o600)  # users keep access keys in .env
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    try:
        print(f"wrote {write_env(Path.cwd())}")
    except NotAProject as error:
        sys.exit(str(error))
