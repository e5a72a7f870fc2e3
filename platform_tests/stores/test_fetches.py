"""Archives from a real HTTP server on loopback, from S3 and from this disk: fetched, checked, unpacked, once."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from platform_assets.stores.fetches import FetchFailed, WrongArchive, fetch, unpacked
from platform_assets.vision.datasets.archives import BadArchive, Limits
from platform_assets.vision.datasets.sources import MissingSource
from platform_assets.vision.formats.archive import ArchiveSource
from platform_tests.s3_server import S3Server
from platform_tests.vision.datasets.test_archives import tarred, zipped
from platform_tests.vision.pictures import png

DATA = bytes(range(256)) * 16_384  # 4 MiB: several chunks
PETS = zipped({"pets/cat/a.png": png(1), "pets/dog/b.png": png(2), "README.md": b"pets"})


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Site:
    """What a server gives for any path, and what it was asked for."""

    data: bytes
    ranges: bool = True
    says_length: bool = True
    breaks_after: int | None = None
    delay_s: float = 0
    all_arrived: threading.Event = field(default_factory=threading.Event)
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@contextmanager
def served(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            site.asked.append(asked)
            time.sleep(site.delay_s)
            if self.path.startswith("/gone"):
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and site.ranges else 0
            if start >= len(site.data) > 0 and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.data) - 1}/{len(site.data)}")
            if site.says_length:
                self.send_header("Content-Length", str(len(site.data) - start))
            self.end_headers()
            with suppress(ConnectionError):  # a client that had enough
                self.wfile.write(site.data[start : site.breaks_after])
            if site.breaks_after is not None:  # what is still on its way when a connection breaks is lost
                self.wfile.flush()
                site.all_arrived.wait(20)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/sets/pets.TAR.gz?signature=secret"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


Serve = Callable[..., Site]


@pytest.fixture
def serve() -> Iterator[Serve]:
    opened: list[AbstractContextManager[Site]] = []

    def start(data: bytes = DATA, **how: object) -> Site:
        opened.append(served(Site(data, **how)))  # type: ignore[arg-type]
        return opened[-1].__enter__()

    yield start
    for site in opened:
        site.__exit__(None, None, None)


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("says_length", [True, False])
def test_fetch__under_its_hash_with_the_suffix_of_the_url(tmp_path: Path, serve: Serve, says_length: bool) -> None:
    site, sha256 = serve(says_length=says_length), sha256_of(DATA)
    seen: list[tuple[int, int | None]] = []
    place = fetch(site.url, sha256, tmp_path / "new", on_progress=lambda *done: seen.append(done))
    assert place == tmp_path / "new" / f"{sha256}.tar.gz"
    assert place.read_bytes() == DATA
    assert kept(tmp_path / "new") == {place.name}
    assert seen[-1] == (len(DATA), len(DATA) if says_length else None)
    assert fetch(site.url, sha256, tmp_path / "new") == place
    assert site.asked == [None]


BREAK = 3_000_000


def breaking(site: Site) -> Callable[[int, int | None], None]:
    """Lets the server break the connection when all that it sent was written down."""
    return lambda done, _: site.all_arrived.set() if done == BREAK else None


@pytest.mark.parametrize("ranges", [True, False])
def test_fetch__broken_off_and_gone_on_with(tmp_path: Path, serve: Serve, ranges: bool) -> None:
    site, sha256 = serve(ranges=ranges, breaks_after=BREAK), sha256_of(DATA)
    with pytest.raises(FetchFailed, match=rf"broke off after 3,000,000 .*by hand at {tmp_path}/{sha256}\.tar\.gz"):
        fetch(site.url, sha256, tmp_path, on_progress=breaking(site))
    assert (tmp_path / f"{sha256}.part").read_bytes() == DATA[:BREAK]
    site.breaks_after = None
    assert fetch(site.url, sha256, tmp_path).read_bytes() == DATA
    assert site.asked == [None, f"bytes={BREAK}-"]
    assert kept(tmp_path) == {f"{sha256}.tar.gz"}


def test_fetch__a_break_without_a_known_length_is_a_wrong_hash(tmp_path: Path, serve: Serve) -> None:
    site = serve(says_length=False, breaks_after=BREAK)
    with pytest.raises(WrongArchive, match=f"SHA-256 is {sha256_of(DATA[:BREAK])}, stated is {sha256_of(DATA)}"):
        fetch(site.url, sha256_of(DATA), tmp_path, on_progress=breaking(site))
    assert kept(tmp_path) == set()


def test_fetch__wrong_hash_keeps_nothing(tmp_path: Path, serve: Serve) -> None:
    stated, found = "0" * 64, sha256_of(DATA)
    with pytest.raises(
        WrongArchive, match=rf"/sets/pets\.TAR\.gz: SHA-256 is {found}, stated is {stated}; .* nothing was"
    ):
        fetch(serve().url, stated, tmp_path)
    assert kept(tmp_path) == set()


@pytest.mark.parametrize("left", [b"of another file", DATA + b"and more", DATA[:-1] + b"x"])
def test_fetch__a_start_of_another_file_is_fetched_anew(tmp_path: Path, serve: Serve, left: bytes) -> None:
    (tmp_path / f"{sha256_of(DATA)}.part").write_bytes(left)
    assert fetch(serve().url, sha256_of(DATA), tmp_path).read_bytes() == DATA


def test_fetch__a_whole_part_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / f"{sha256_of(DATA)}.part").write_bytes(DATA)
    assert fetch("http://127.0.0.1:9/x.zip", sha256_of(DATA), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("says_length", [True, False])
def test_fetch__size_cap(tmp_path: Path, serve: Serve, says_length: bool) -> None:
    site = serve(says_length=says_length)
    with pytest.raises(WrongArchive, match="over 1,000,000 bytes; split the archive; nothing was kept"):
        fetch(site.url, sha256_of(DATA), tmp_path, max_bytes=1_000_000)
    assert kept(tmp_path) == set()


def test_fetch__offline_says_what_is_missing_and_where_to_put_it(tmp_path: Path) -> None:
    sha256 = sha256_of(PETS)
    with pytest.raises(
        FetchFailed, match=rf"http://127\.0\.0\.1:9/pets\.zip: .*SHA-256 {sha256}\) by hand at {tmp_path}/{sha256}\.zip"
    ):
        fetch("http://user:word@127.0.0.1:9/pets.zip?key=secret", sha256, tmp_path)
    (tmp_path / f"{sha256}.zip").write_bytes(PETS)
    assert fetch("http://127.0.0.1:9/pets.zip", sha256, tmp_path).read_bytes() == PETS


def test_fetch__a_wrong_file_placed_by_hand_stays_the_users(tmp_path: Path) -> None:
    place = tmp_path / f"{'0' * 64}.zip"
    place.write_bytes(PETS)
    with pytest.raises(WrongArchive, match=rf"{place}: SHA-256 is {sha256_of(PETS)}, stated is 0{{64}}; put the right"):
        fetch("http://127.0.0.1:9/pets.zip", "0" * 64, tmp_path)
    assert place.is_file()


@pytest.mark.parametrize(
    ("url", "said"),
    {
        "http://127.0.0.1:{port}/gone.zip?key=secret": "not fetched: http://127.0.0.1:.*/gone.zip; run again",
        "nonsense://x/y.zip": "nonsense://x/y.zip: Protocol not known: nonsense; http, https and s3",
        "memory://none/y.zip": "not fetched: .*none/y.zip; run again",
    }.items(),
)
def test_fetch__urls_that_lead_nowhere(tmp_path: Path, serve: Serve, url: str, said: str) -> None:
    port = serve().url.split(":")[2].split("/")[0]
    with pytest.raises(FetchFailed, match=said) as caught:
        fetch(url.format(port=port), "0" * 64, tmp_path)
    assert "secret" not in str(caught.value)


def test_fetch__two_at_once_fetch_once(tmp_path: Path, serve: Serve) -> None:
    site = serve(delay_s=0.3)
    with ThreadPoolExecutor(2) as pool:
        places = list(pool.map(lambda _: fetch(site.url, sha256_of(DATA), tmp_path), range(2)))
    assert places[0].read_bytes() == DATA
    assert places[0] == places[1]
    assert len(site.asked) == 1


def test_unpacked__a_url_once_and_offline_after_that(tmp_path: Path, serve: Serve) -> None:
    site = serve(PETS)
    spec = ArchiveSource(kind="archive", url=site.url, sha256=sha256_of(PETS))
    root = unpacked(spec, tmp_path, tmp_path / "cache")
    assert root == tmp_path / "cache" / "unpacked" / sha256_of(PETS) / "pets"
    assert spec.read(root).rows["path"].to_list() == ["cat/a.png", "dog/b.png"]
    (tmp_path / "cache" / "archives" / f"{sha256_of(PETS)}.tar.gz").unlink()
    gone = spec.model_copy(update={"url": "http://127.0.0.1:9/x.zip"})
    assert unpacked(gone, tmp_path, tmp_path / "cache") == root
    assert len(site.asked) == 1


def test_unpacked__a_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    spec = ArchiveSource.model_validate({"kind": "archive", "path": "up/pets.zip", "format": {"kind": "folder"}})
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "pets.zip").write_bytes(zipped({"cat/a.png": png(1)}))
    first = unpacked(spec, tmp_path, tmp_path / "cache")
    assert spec.read(first).rows["label"].to_list() == ["cat"]
    assert unpacked(spec, tmp_path, tmp_path / "cache") == first
    (tmp_path / "up" / "pets.zip").write_bytes(tarred({"dog/another.png": png(2)}))
    second = unpacked(spec, tmp_path, tmp_path / "cache")
    assert spec.read(second).rows["label"].to_list() == ["dog"]
    assert second != first


def test_unpacked__stated_hash_of_a_file_is_checked(tmp_path: Path) -> None:
    spec = ArchiveSource(kind="archive", path="pets.zip", sha256="0" * 64)
    with pytest.raises(MissingSource, match=rf"archive {tmp_path}/pets\.zip is not there; put the file there"):
        unpacked(spec, tmp_path, tmp_path / "cache")
    (tmp_path / "pets.zip").write_bytes(PETS)
    with pytest.raises(WrongArchive, match=rf"pets\.zip: SHA-256 is {sha256_of(PETS)}, stated is 0{{64}}"):
        unpacked(spec, tmp_path, tmp_path / "cache")
    assert (tmp_path / "pets.zip").is_file()


def test_unpacked__a_refused_archive_leaves_nothing_unpacked(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(PETS)
    spec = ArchiveSource(kind="archive", path="pets.zip")
    with pytest.raises(BadArchive, match="3 members; 1 are the most"):
        unpacked(spec, tmp_path, tmp_path / "cache", limits=Limits(members=1))
    assert kept(tmp_path / "cache" / "unpacked") == set()


def test_unpacked__what_a_killed_process_left_goes(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_bytes(PETS)
    leftover = tmp_path / "cache" / "unpacked" / f".{sha256_of(PETS)}.0123.unpacking"
    leftover.mkdir(parents=True)
    unpacked(ArchiveSource(kind="archive", path="pets.zip"), tmp_path, tmp_path / "cache")
    assert kept(tmp_path / "cache" / "unpacked") == {sha256_of(PETS)}


ANOTHER_PROCESS = """
import sys
from pathlib import Path
from platform_assets.stores.fetches import unpacked
from platform_assets.vision.formats.archive import ArchiveSource
print(unpacked(ArchiveSource(kind="archive", url=sys.argv[1], sha256=sys.argv[2]), Path("."), Path(sys.argv[3])))
"""


def test_unpacked__two_processes_fetch_once(tmp_path: Path, serve: Serve) -> None:
    site = serve(PETS, delay_s=1.0)
    command = [sys.executable, "-c", ANOTHER_PROCESS, site.url, sha256_of(PETS), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert said[0][0] == said[1][0] == f"{tmp_path}/cache/unpacked/{sha256_of(PETS)}/pets\n"
    assert len(site.asked) == 1


def test_fetch__s3_gone_on_with_after_a_break(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**s3.environment(), "AWS_ENDPOINT_URL": s3.endpoint_url}.items():
        monkeypatch.setenv(name, value)
    s3.client().put_object(Bucket=s3.make_bucket("fetches"), Key="sets/pets.zip", Body=PETS)
    (tmp_path / f"{sha256_of(PETS)}.part").write_bytes(PETS[:100])
    seen: list[int] = []
    place = fetch(
        "s3://fetches/sets/pets.zip", sha256_of(PETS), tmp_path, on_progress=lambda done, _: seen.append(done)
    )
    assert place.read_bytes() == PETS
    assert seen[0] > 100
    with pytest.raises(FetchFailed, match=r"s3://fetches/sets/gone\.zip: not fetched: .*; run again"):
        fetch("s3://fetches/sets/gone.zip", "0" * 64, tmp_path)
