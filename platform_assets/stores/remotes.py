"""A store elsewhere by its fsspec URL: opened, asked whether it answers, its errors in our words."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class RemoteError(ValueError):
    """A remote that cannot be used; the message says what to do instead."""


class RemoteRefused(RemoteError):
    """The remote knows no such credentials, or none were found."""


class RemoteUnreachable(RemoteError):
    """The remote does not answer, or has no such bucket."""


@dataclass(frozen=True)
class Remote:
    """A folder or fsspec URL. `endpoint_url` is the address of an S3-compatible store that is not AWS."""

    url: str
    endpoint_url: str | None = None

    def __post_init__(self) -> None:
        if self.endpoint_url and not self.url.startswith("s3://"):
            raise RemoteError(f"{self.url}: an endpoint URL belongs to an s3:// remote; leave it out")

    def open(self) -> tuple[Any, str]:
        """The file system and the path on it; an S3 store has answered. Raises RemoteError."""
        import fsspec

        more = {"endpoint_url": self.endpoint_url} if self.endpoint_url else {}
        try:
            fs, path = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **more)
        except (ImportError, ValueError) as error:
            cure = "s3:// needs the extra `s3`: `uv pip install 'kestrel-vision[s3]'`; a folder needs nothing"
            raise RemoteError(f"remote {self.url}: {error}; {cure}") from error
        if "s3" in fs.protocol:
            require_bucket(fs, path, f"remote {self.url}")
        return fs, path.rstrip("/")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What breaks off on the way, as RemoteUnreachable."""
        try:
            yield
        except network_errors() as error:
            cure = "run it again, what is there stays"
            raise RemoteUnreachable(f"remote {self.url}: broke off: {error or type(error).__name__}; {cure}") from error


def require_bucket(s3: Any, path: str, where: str) -> None:
    """Asks an S3 file system something small, before all else fails in its own words."""
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    try:
        # Not exists(): s3fs answers False to refused credentials.
        s3.call_s3("head_bucket", Bucket=path.split("/")[0])
    except FileNotFoundError as error:
        raise RemoteUnreachable(f"{where}: no such bucket; make it, or name another with --remote") from error
    except (NoCredentialsError, PermissionError) as error:
        cure = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws, to ones that may use the bucket"
        )
        raise RemoteRefused(f"{where}: {error}; {cure}") from error
    except (BotoCoreError, OSError) as error:
        raise RemoteUnreachable(f"{where}: {error}; is the address right, and the store up?") from error


def network_errors() -> tuple[type[BaseException], ...]:
    """What fsspec's file systems let through; a library that was not loaded raised nothing."""
    named = {"aiohttp": ("ClientError",), "botocore.exceptions": ("BotoCoreError", "ClientError")}
    loaded = [getattr(sys.modules[module], name) for module in named if module in sys.modules for name in named[module]]
    return (OSError, *loaded)
