"""A real S3 server on this machine's loopback, for tests of everything that speaks to an S3-compatible store."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WEED = Path(sys.executable).with_name("weed")
_SERVICES = ("master", "volume", "filer", "s3")
_STARTS_WITHIN_S = 60
_REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and the one identity that may do everything."""

    endpoint_url: str
    key: str
    secret: str

    def make_bucket(self, name: str) -> str:
        self.client().create_bucket(Bucket=name)
        return name

    def object_keys(self, bucket: str) -> list[str]:
        """The keys of all objects of a bucket, sorted."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(found["Key"] for page in pages for found in page.get("Contents", ()))

    def environment(self) -> dict[str, str]:
        """What a program finds credentials in, and nothing of the machine's own."""
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED")
        return dict(zip(names, (self.key, self.secret, _REGION, "true"), strict=True))

    def client(self) -> Any:
        import botocore.session  # half a second that only tests with a server should pay

        return botocore.session.Session().create_client(
            "s3",
            region_name=_REGION,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
        )


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS with its data in `folder`, ended with the block. Fails with the end of its log when it does not start."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = _free_ports(2 * len(_SERVICES) + 2)
    server = S3Server(f"http://127.0.0.1:{ports[2 * _SERVICES.index('s3')]}", "kestrel", "not-a-secret")
    log = folder / "weed.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            _command(folder, server, ports), cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        _wait(server, process, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def _command(folder: Path, server: S3Server, ports: list[int]) -> list[str]:
    credentials = [{"accessKey": server.key, "secretKey": server.secret}]
    identity = {"name": "kestrel", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    config = folder / "identities.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "store").mkdir(exist_ok=True)
    listening = [f"-{name}.port={port}" for name, port in zip(_SERVICES, ports[::2], strict=False)]
    listening += [f"-{name}.port.grpc={port}" for name, port in zip(_SERVICES, ports[1::2], strict=False)]
    listening += [f"-admin.port={ports[-2]}", f"-admin.port.grpc={ports[-1]}"]
    listening += [f"-{name}.localSocket={name}.sock" for name in ("filer", "s3")]  # else they are left in /tmp
    unwanted = ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    return [
        *(str(_WEED), "mini", f"-dir={folder / 'store'}", f"-s3.config={config}"),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64"),
        *listening,
        *unwanted,
    ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [int(found.getsockname()[1]) for found in sockets]


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + _STARTS_WITHIN_S
    client = server.client()
    said: object = ""
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.list_buckets()
            return
        except (BotoCoreError, ClientError) as error:
            said = error
            time.sleep(0.1)
    tail = log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"{_WEED} did not start (exit code {process.poll()}); last answer: {said}\n{tail}")
