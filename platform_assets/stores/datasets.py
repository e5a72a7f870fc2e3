"""The DVC-tracked folders of one project: their versions, and their bytes in a remote. No image is opened here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from platform_assets.stores.remotes import Remote, require_bucket
from platform_assets.vision.formats.dvc_folder import tracked_hash

if TYPE_CHECKING:
    from dvc.repo import Repo

Status = Literal["unchanged", "modified", "deleted"]
"""DVC's own words for the files beside their .dvc file."""

_REMOTE = "kestrel"
_LISTED_OBJECTS = 3
_NO_REMOTE = "no remote is configured; name one with `kestrel data push NAME --remote URL`"


class DatasetError(ValueError):
    """What DVC, or its remote, cannot do; the message says what to do instead."""


class CannotTrack(DatasetError):
    """A folder that DVC cannot track where it lies."""


class NotTracked(DatasetError):
    """A folder without a .dvc file."""


class NoRemote(DatasetError):
    """No remote is configured."""


class MissingObjects(DatasetError):
    """Files of a version that neither the cache nor, on a pull, the remote holds."""


class Datasets:
    """Folders of a project under DVC, through its Python API; a project is put under DVC by the first `add`.

    Everything that DVC writes lies in the project: `.dvc/` with its cache and indexes, and one `.dvc` file beside each
    folder. The remote is a folder of `data` until `use_remote` names another one. Two processes take turns.
    """

    # 2026-11, dvc 3.67: the API and not the `dvc` command, because it raises typed errors where the command prints
    # text, returns counts, takes settings for one call, and costs its import (1 s) once and not at every call.

    def __init__(self, project: Path, data: Path) -> None:
        self.project = project.resolve()
        self.data = data.resolve()

    def initialise(self) -> None:
        """Put the project under DVC, with git where there is git. A project that is under DVC stays as it is."""
        folder = self.project / ".dvc"
        if (folder / "config").is_file():
            return
        from dvc.config import Config
        from dvc.config_schema import RelPath
        from dvc.ignore import init as write_dvcignore

        # Not Repo.init: it opens the repository before any setting can be made, and so writes to /var/tmp/dvc.
        folder.mkdir(exist_ok=True)
        own = [self.data.relative_to(self.project)] if self.data.is_relative_to(self.project) else []
        remote = str(self.data / "dvc")
        with Config.init(str(folder)).edit() as config:
            config["core"].update({key: value for key, value in self._core().items() if key != "site_cache_dir"})
            config["core"]["remote"] = _REMOTE
            config["remote"][_REMOTE] = {"url": RelPath(remote) if own else remote}
        with Config(str(folder)).edit("local") as config:
            config["core"]["site_cache_dir"] = self._core()["site_cache_dir"]
        ignored = Path(write_dvcignore(str(self.project)))
        lines = "".join(f"/{name.as_posix()}/\n" for name in (*own, Path(".venv"), Path(".venv-fiftyone")))
        ignored.write_text(f"{ignored.read_text(encoding='utf-8')}{lines}", encoding="utf-8")

    def add(self, folder: Path) -> str:
        """Track the folder as it is now, or anew after a change; the hash of its content. Raises CannotTrack."""
        place = self._trackable(folder)
        self.initialise()
        with self._open() as repo:
            repo.add([str(place)])
        return self.version(place)

    def version(self, folder: Path) -> str:
        """The hash that the .dvc file of a folder states; nothing is pulled or read beside it. Raises NotTracked."""
        return tracked_hash(self._tracked(folder))

    def status(self, folder: Path) -> Status:
        """Whether the files are those that the .dvc file states; files whose time and size stand are not read again."""
        place = self._tracked(folder)
        with self._open() as repo:
            return _status(repo, place)

    def use_remote(self, url: str, *, endpoint_url: str | None = None) -> None:
        """Push to and pull from this address from now on; credentials are found where boto3 finds them, never kept."""
        remote = Remote(url, endpoint_url)
        self.initialise()
        with self._open() as repo, repo.config.edit() as config:
            said = {"url": remote.url} | ({"endpointurl": endpoint_url} if endpoint_url else {})
            config["remote"][_REMOTE] = said
            config["core"]["remote"] = _REMOTE

    def remote(self) -> Remote:
        """The remote that `push` and `pull` use. Raises NoRemote."""
        if (self.project / ".dvc" / "config").is_file():
            with self._open() as repo:
                if name := repo.config["core"].get("remote"):
                    said = repo.config["remote"][name]
                    return Remote(str(said["url"]), said.get("endpointurl"))
        raise NoRemote(_NO_REMOTE)

    def push(self, folder: Path) -> int:
        """Upload what the remote lacks of this version; the number of objects uploaded.

        Each object is whole or absent, so a push that was broken off goes on where it was. Raises NoRemote,
        RemoteRefused, RemoteUnreachable, and MissingObjects before anything is uploaded.
        """
        place = self._tracked(folder)
        with self._open() as repo:
            _require_reachable(repo)
            _require_cached(repo, tracked_hash(place), place)
            return int(repo.push([_dvc_file(place)]))

    def pull(self, folder: Path) -> int:
        """Make the folder what its .dvc file states; the number of objects downloaded, those in the cache left out.

        Raises NoRemote, RemoteRefused, RemoteUnreachable, MissingObjects, and DatasetError where changed files would
        be lost.
        """
        place = self._tracked(folder)
        with self._open() as repo:
            if _status(repo, place) == "unchanged":
                return 0
            if not _lacking(repo, tracked_hash(place)):
                repo.checkout([_dvc_file(place)])
                return 0
            _require_reachable(repo)
            return _pulled(repo, place)

    def _tracked(self, folder: Path) -> Path:
        place = self.project / folder
        if not Path(_dvc_file(place)).is_file():
            raise NotTracked(f"{folder}: no {_dvc_file(place)}; track it with `kestrel data add {folder}`")
        return place

    def _trackable(self, folder: Path) -> Path:
        place = self.project / folder
        real = place.resolve()
        if not real.is_dir():
            raise CannotTrack(f"{folder}: no such folder; DVC tracks a folder that is there")
        if real == self.project or not real.is_relative_to(self.project):
            cure = "move it in, or register it in place with --no-dvc"
            raise CannotTrack(f"{folder}: not a folder inside of the project {self.project}; {cure}")
        if above := next((up for up in real.parents if Path(_dvc_file(up)).is_file()), None):
            raise CannotTrack(f"{folder}: lies in {above}, which is tracked as a whole; add that folder")
        if real.is_relative_to(self.data):
            cure = "that is where runs write, and git leaves it out; move the images elsewhere in the project"
            raise CannotTrack(f"{folder}: lies in the data folder {self.data}; {cure}")
        return real

    def _core(self) -> dict[str, Any]:
        return {
            "analytics": False,
            "check_update": False,
            "no_scm": not _under_git(self.project),
            "site_cache_dir": str(self.project / ".dvc" / "tmp" / "site"),
        }

    @contextmanager
    def _open(self) -> Iterator[Repo]:
        from dvc.repo import Repo
        from filelock import FileLock

        if not (self.project / ".dvc" / "config").is_file():
            raise NotTracked(f"{self.project}: not under DVC; `kestrel data add FOLDER` puts it there")
        temporary = self.project / ".dvc" / "tmp"
        temporary.mkdir(exist_ok=True)
        with (
            FileLock(temporary / "kestrel.lock"),
            _in_our_words(),
            Repo(str(self.project), config={"core": self._core()}) as repo,
        ):
            repo.scm_context.quiet = True
            yield repo


def _dvc_file(place: Path) -> str:
    return f"{place}.dvc"


def _under_git(project: Path) -> bool:
    from dvc.scm import SCM, SCMError

    try:
        SCM(str(project)).close()
    except SCMError:
        return False
    return True


def _status(repo: Repo, place: Path) -> Status:
    (out,) = repo.find_outs_by_path(str(place))
    status: Status = next(iter(out.workspace_status().values()), "unchanged")
    return status


def _require_reachable(repo: Repo) -> None:
    """DVC itself only counts failures and logs their reasons."""
    remote = repo.cloud.get_remote_odb()
    if remote.fs.protocol == "s3":
        require_bucket(remote.fs.fs, remote.path, f"remote {remote.fs.unstrip_protocol(remote.path)}")


def _require_cached(repo: Repo, version: str, place: Path) -> None:
    """DVC only warns of objects that it cannot find, and calls the push done."""
    if lacking := _lacking(repo, version):
        cure = "`kestrel data pull` gets them from the remote; where the files still are, `kestrel data add` does"
        raise MissingObjects(f"{place}: the cache lacks {_some(lacking)}; {cure}")


def _pulled(repo: Repo, place: Path) -> int:
    from dvc.exceptions import CheckoutError, DownloadError

    try:
        return int(repo.pull([_dvc_file(place)])["stats"]["fetched"])
    except (CheckoutError, DownloadError) as error:
        if lacking := _lacking(repo, tracked_hash(place), repo.cloud.get_remote_odb()):
            cure = "push them from where they are with `kestrel data push`, then pull again"
            raise MissingObjects(f"{place}: neither cache nor remote holds {_some(lacking)}; {cure}") from error
        raise


def _some(objects: list[str]) -> str:
    rest = f" and {len(objects) - _LISTED_OBJECTS} more" if len(objects) > _LISTED_OBJECTS else ""
    return ", ".join(objects[:_LISTED_OBJECTS]) + rest


def _lacking(repo: Repo, version: str, *more: Any) -> list[str]:
    """The names of the files of a version that the cache does not hold; `more` are stores that may know the names."""
    cache = repo.cache.local
    for store in (cache, *more):
        if store.fs.exists(listing := store.oid_to_path(version)):
            files = json.loads(store.fs.cat_file(listing)) if version.endswith(".dir") else []
            return [file["relpath"] for file in files if not Path(cache.oid_to_path(file["md5"])).is_file()]
    return [version]


@contextmanager
def _in_our_words() -> Iterator[None]:
    """DVC's errors as ours, with a cure each."""
    from dvc.config import NoRemoteError
    from dvc.exceptions import DvcException, UploadError
    from dvc.fs import RemoteMissingDepsError

    try:
        yield
    except NoRemoteError as error:
        raise NoRemote(_NO_REMOTE) from error
    except RemoteMissingDepsError as error:
        raise DatasetError(f"{error}; s3:// needs the extra `s3`: `uv pip install 'kestrel-vision[s3]'`") from error
    except UploadError as error:
        raise DatasetError(f"{error}; push again, what is uploaded stays") from error
    except DvcException as error:
        said = " ".join(str(error).split())
        if said.startswith("Can't remove the following unsaved files"):
            cure = "keep them with `kestrel data add`, or remove them, then pull again"
            said = (
                f"files that were changed since they were tracked would be lost: {said.partition('force. ')[2]}; {cure}"
            )
        raise DatasetError(f"DVC: {said}") from error
