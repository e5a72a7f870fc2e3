"""An archive of images: a zip or tar file of this machine or behind a URL, and the format of what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from platform_assets.vision.datasets.format_detection import detect
from platform_assets.vision.datasets.format_kinds import FormatSpec, NestedFormat
from platform_assets.vision.datasets.sources import Candidates, Format, source_root


class ArchiveSource(Format):
    """A zip or tar archive, unpacked into the cache by `stores.fetches.unpacked`, which gives the root to read.

    `format` says what lies in it, as any other source without `path` and `package`; `format: {folder: ...}` names a
    folder of the archive. Left out, it is detected.
    """

    kind: Literal["archive"]
    path: str | None = Field(None, description="zip or tar file, absolute or relative to the project")
    url: str | None = Field(None, description="http, https, s3 or any other fsspec URL of a zip or tar file")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="SHA-256 (hex) of the archive file")
    format: NestedFormat | None = Field(None, description="a source without its place; detected when left out")

    @field_validator("url")
    @classmethod
    def _with_a_protocol(cls, url: str | None) -> str | None:
        if url is not None and "://" not in url:
            raise ValueError(f"url {url!r} has no protocol such as https://; a file of this machine is a `path`")
        return url

    @model_validator(mode="after")
    def _one_place(self) -> ArchiveSource:
        if (self.path is None) == (self.url is None):
            raise ValueError("give exactly one of `path` and `url`")
        if self.url is not None and self.sha256 is None:
            raise ValueError("a `url` needs `sha256`: what is behind it may change; `sha256sum FILE` prints it")
        return self

    def root_in(self, unpacked: Path) -> Path:
        """The root below the folder that the whole archive was unpacked into. Raises MissingSource, BadSource."""
        return source_root(self.format or detected(unpacked), unpacked)

    def read(self, root: Path) -> Candidates:
        return (self.format or detected(root)).read(root)

    def own_files(self, root: Path) -> Sequence[str]:
        return (self.format or detected(root)).own_files(root)


def detected(root: Path) -> FormatSpec:
    """The format of a folder, with the path `.`. Raises UnknownFormat."""
    from pydantic import TypeAdapter

    adapter: TypeAdapter[FormatSpec] = TypeAdapter(NestedFormat)
    return adapter.validate_python(detect(root))
