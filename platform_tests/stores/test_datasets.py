"""Folders under real DVC: in a project of their own, in git, on a local remote and on a real S3 server."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from platform_assets.stores.datasets import (
    CannotTrack,
    DatasetError,
    Datasets,
    MissingObjects,
    NoRemote,
    NotTracked,
)
from platform_assets.stores.remotes import RemoteError, RemoteRefused, RemoteUnreachable
from platform_tests.s3_server import S3Server
from platform_tests.vision.pictures import png, write

IMAGES = Path("images")
SITE_CACHE = Path("/var/tmp/dvc")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for number in range(4):
        write(tmp_path / "project/images", f"class_{number % 2}/{number}.png", png(number))
    return tmp_path / "project"


@pytest.fixture
def datasets(project: Path) -> Datasets:
    return Datasets(project, project / "data")


@pytest.fixture
def s3_login(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wipe(project: Path) -> None:
    """As on another machine: the .dvc file and the configuration are all there is."""
    shutil.rmtree(project / "images")
    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(project / ".dvc/tmp")


def test_add__version_depends_on_the_content_alone(datasets: Datasets, project: Path, tmp_path: Path) -> None:
    version = datasets.add(IMAGES)
    assert version == datasets.version(IMAGES)
    assert version.endswith(".dir")
    shutil.copytree(project / "images", tmp_path / "other/images")
    assert Datasets(tmp_path / "other", tmp_path / "other/data").add(IMAGES) == version
    write(project / "images", "class_0/new.png", png(9))
    assert datasets.version(IMAGES) == version, "a version is stated, not measured"
    assert datasets.add(IMAGES) != version


def test_add__leaves_nothing_outside_of_the_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC keeps its indexes in /var/tmp/dvc unless told otherwise, `dvc init` even then."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    before = sorted(SITE_CACHE.rglob("*"))
    datasets = Datasets(project, tmp_path / "data")
    datasets.add(IMAGES)
    datasets.push(IMAGES)
    wipe(project)
    datasets.pull(IMAGES)
    assert sorted(SITE_CACHE.rglob("*")) == before
    assert list(home.iterdir()) == []
    assert {path.name for path in project.iterdir()} == {".dvc", ".dvcignore", "images", "images.dvc"}
    assert {path.name for path in tmp_path.iterdir()} == {"data", "home", "project"}
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"dvc"}
    assert "analytics = False" in (project / ".dvc/config").read_text()


def test_add__in_git_the_images_are_ignored_and_the_dvc_file_is_not(datasets: Datasets, project: Path) -> None:
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    datasets.add(IMAGES)
    status = ["git", "-C", str(project), "status", "--porcelain", "--untracked-files=all"]
    listed = subprocess.run(status, check=True, capture_output=True, text=True).stdout
    assert {line[3:] for line in listed.splitlines()} == {
        *(".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "images.dvc")
    }


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("nowhere", "nowhere: no such folder; DVC tracks a folder that is there"),
        (".", ".: not a folder inside of the project"),
        ("../elsewhere", "move it in, or register it in place with --no-dvc"),
        ("data/images", "that is where runs write, and git leaves it out; move the images elsewhere in the project"),
    ],
)
def test_add__refuses_a_folder_that_dvc_cannot_keep(datasets: Datasets, project: Path, folder: str, said: str) -> None:
    for name in ("../elsewhere", "data/images"):
        (project / name).mkdir(parents=True)
    with pytest.raises(CannotTrack) as raised:
        datasets.add(Path(folder))
    assert said in str(raised.value)
    assert not (project / ".dvc").exists()


def test_add__folders_that_overlap_are_refused(datasets: Datasets, project: Path) -> None:
    """DVC takes a folder inside of a tracked one for a change of that one."""
    version = datasets.add(IMAGES)
    with pytest.raises(CannotTrack, match=r"class_0: lies in .*/images, which is tracked as a whole; add that folder"):
        datasets.add(IMAGES / "class_0")
    assert datasets.version(IMAGES) == version
    write(project, "all/some/1.png", png(1))
    datasets.add(Path("all/some"))
    with pytest.raises(DatasetError, match=r"DVC: Cannot add '.*all', because it is overlapping .*all/some"):
        datasets.add(Path("all"))


def test_status__is_that_of_the_files(datasets: Datasets, project: Path) -> None:
    datasets.add(IMAGES)
    assert datasets.status(IMAGES) == "unchanged"
    shutil.rmtree(project / ".dvc/cache")
    assert datasets.status(IMAGES) == "unchanged"
    write(project / "images", "class_0/0.png", png(8))
    assert datasets.status(IMAGES) == "modified"
    shutil.rmtree(project / "images")
    assert datasets.status(IMAGES) == "deleted"


def test_untracked__every_verb_names_the_file_and_the_command(datasets: Datasets, project: Path) -> None:
    for verb in (datasets.version, datasets.status, datasets.push, datasets.pull):
        with pytest.raises(NotTracked) as raised:
            verb(IMAGES)
        expected = f"images: no {project}/images.dvc; track it with `kestrel data add images`"
        assert str(raised.value) == expected


def test_push_and_pull__bring_back_the_same_bytes(datasets: Datasets, project: Path) -> None:
    datasets.add(IMAGES)
    before = hashes(project / "images")
    assert datasets.push(IMAGES) == 5
    assert datasets.push(IMAGES) == 0
    wipe(project)
    assert datasets.pull(IMAGES) == 5
    assert hashes(project / "images") == before
    assert datasets.pull(IMAGES) == 0


def test_remote__goes_along_when_the_project_moves(datasets: Datasets, project: Path, tmp_path: Path) -> None:
    datasets.add(IMAGES)
    datasets.push(IMAGES)
    wipe(project)
    moved = project.rename(tmp_path / "moved")
    assert Datasets(moved, moved / "data").pull(IMAGES) == 5


def test_pull__mends_a_folder_that_lacks_files_and_needs_no_remote(datasets: Datasets, project: Path) -> None:
    datasets.add(IMAGES)
    before = hashes(project / "images")
    shutil.rmtree(project / "images/class_1")
    assert datasets.pull(IMAGES) == 0
    assert hashes(project / "images") == before
    shutil.rmtree(project / ".dvc/cache")
    assert datasets.pull(IMAGES) == 0, "the files are as stated; there is nothing to ask anybody for"


def test_pull__never_overwrites_a_changed_file(datasets: Datasets, project: Path) -> None:
    datasets.add(IMAGES)
    write(project / "images", "class_0/0.png", png(8))
    with pytest.raises(DatasetError) as raised:
        datasets.pull(IMAGES)
    assert "files that were changed since they were tracked would be lost" in str(raised.value)
    assert "images/class_0/0.png; keep them with `kestrel data add`" in str(raised.value)
    assert (project / "images/class_0/0.png").read_bytes() == png(8)


def test_pull__an_object_that_nobody_holds_is_named(datasets: Datasets, project: Path) -> None:
    datasets.add(IMAGES)
    datasets.push(IMAGES)
    wipe(project)
    digest = hashlib.md5(png(2), usedforsecurity=False).hexdigest()
    (project / "data/dvc/files/md5" / digest[:2] / digest[2:]).unlink()
    with pytest.raises(MissingObjects, match=r"neither cache nor remote holds class_0/2.png; push them from"):
        datasets.pull(IMAGES)


def test_push__an_object_that_the_cache_lacks_stops_it_before_it_starts(datasets: Datasets, project: Path) -> None:
    """DVC itself pushes the rest, warns, and says that all went well."""
    datasets.add(IMAGES)
    digest = hashlib.md5(png(1), usedforsecurity=False).hexdigest()
    (project / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).unlink()
    with pytest.raises(MissingObjects, match=r"the cache lacks class_1/1.png; `kestrel data pull` gets them"):
        datasets.push(IMAGES)
    assert not (project / "data/dvc/files").exists()


def test_no_remote__is_said_with_the_cure(datasets: Datasets, project: Path) -> None:
    datasets.add(IMAGES)
    (project / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    with pytest.raises(NoRemote, match=r"no remote is configured; name one with `kestrel data push NAME --remote URL`"):
        datasets.push(IMAGES)


def test_processes__that_pull_at_once_take_turns(datasets: Datasets, project: Path) -> None:
    """DVC alone gives up after three seconds, or at once: `Unable to acquire lock`."""
    shutil.copytree(project / "images", project / "more")
    for folder in ("images", "more"):
        datasets.add(Path(folder))
        shutil.rmtree(project / folder)
    with ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(lambda folder: Datasets(project, project / "data").pull(Path(folder)), ("images", "more"))
        )
    assert found == [0, 0]
    assert hashes(project / "images") == hashes(project / "more")


def test_s3__push_wipe_pull_gives_the_same_hashes(datasets: Datasets, project: Path, s3_login: S3Server) -> None:
    version, before = datasets.add(IMAGES), hashes(project / "images")
    s3_login.make_bucket("kept")
    datasets.use_remote("s3://kept/birds", endpoint_url=s3_login.endpoint_url)
    assert datasets.push(IMAGES) == 5
    assert len(s3_login.object_keys("kept")) == 5
    wipe(project)
    assert datasets.version(IMAGES) == version
    assert datasets.pull(IMAGES) == 5
    assert hashes(project / "images") == before
    assert datasets.add(IMAGES) == version
    assert s3_login.secret not in (project / ".dvc/config").read_text() + (project / ".dvc/config.local").read_text()


PUSH = """
import sys
from pathlib import Path
import dvc.repo, dvc_s3, s3fs
from platform_assets.stores.datasets import Datasets
print("ready", flush=True)
Datasets(Path(sys.argv[1]), Path(sys.argv[1], "data")).push(Path("images"))
"""


@pytest.mark.slow
def test_s3__a_push_that_was_killed_uploads_only_the_rest(
    datasets: Datasets, project: Path, s3_login: S3Server
) -> None:
    for number in range(100):
        write(project / "images", f"class_0/large_{number}.bin", os.urandom(250_000))
    datasets.add(IMAGES)
    objects = 100 + 4 + 1
    s3_login.make_bucket("broken-off")
    datasets.use_remote("s3://broken-off", endpoint_url=s3_login.endpoint_url)
    with (project / ".dvc/config").open("a") as config:
        config.write("    jobs = 1\n")
    client = s3_login.client()
    with subprocess.Popen([sys.executable, "-c", PUSH, str(project)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            while len(written(client)) <= 3:
                work_a_little(process)
        finally:
            process.kill()
    uploaded = written(client)
    assert 3 < len(uploaded) < objects
    assert datasets.push(IMAGES) == objects - len(uploaded)
    assert len(written(client)) == objects
    assert {key: found for key, found in written(client).items() if key in uploaded} == uploaded, "uploaded again"
    before = hashes(project / "images")
    wipe(project)
    assert datasets.pull(IMAGES) == objects
    assert hashes(project / "images") == before


def work_a_little(process: subprocess.Popen[bytes]) -> None:
    """So short a while, and stopped again, that the push cannot end in it, however busy the machine is."""
    assert process.poll() is None, "it ended before it had pushed anything"
    process.send_signal(signal.SIGCONT)
    time.sleep(0.03)
    process.send_signal(signal.SIGSTOP)


def written(client: Any) -> dict[str, tuple[object, str]]:
    """When each object was written, and what."""
    found = client.list_objects_v2(Bucket="broken-off").get("Contents", [])
    return {item["Key"]: (item["LastModified"], item["ETag"]) for item in found}


def test_s3__each_refusal_says_what_to_do(
    datasets: Datasets, s3_login: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    datasets.add(IMAGES)
    datasets.use_remote("s3://absent/birds", endpoint_url=s3_login.endpoint_url)
    with pytest.raises(RemoteUnreachable, match=r"remote s3://absent/birds/files/md5: no such bucket; make it, or"):
        datasets.push(IMAGES)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(RemoteRefused, match=r"Forbidden; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        datasets.push(IMAGES)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RemoteRefused, match=r"Unable to locate credentials; set AWS_ACCESS_KEY_ID"):
        datasets.push(IMAGES)


def test_s3__a_store_that_is_down_is_named(
    datasets: Datasets, s3_login: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    datasets.add(IMAGES)
    datasets.use_remote("s3://kept", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(
        RemoteUnreachable, match=r"remote s3://kept/.*127.0.0.1:9.*; is the address right, and the store up"
    ):
        datasets.push(IMAGES)


def test_use_remote__an_endpoint_without_s3_is_refused(datasets: Datasets, project: Path) -> None:
    with pytest.raises(RemoteError, match="an endpoint URL belongs to an s3:// remote; leave it out"):
        datasets.use_remote("/mnt/store", endpoint_url="http://nas:8333")
    assert not (project / ".dvc").exists()
