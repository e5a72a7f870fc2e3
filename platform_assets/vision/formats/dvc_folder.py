"""A folder that DVC tracks: its version stands in the .dvc file beside it, whether or not the files are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from platform_assets.vision.datasets.format_kinds import NestedFormat
from platform_assets.vision.datasets.sources import BadSource, Candidates, FileName, Format, source_root
from platform_assets.vision.formats.folder import FolderSource


class DvcSource(Format):
    """A folder with a .dvc file beside it, pulled by `stores.datasets` when its files are not there.

    `format` says what lies in it, as any other source without `path` and `package`.
    """

    kind: Literal["dvc"]
    path: FileName = Field(
        description="the tracked folder, absolute or relative to the project; PATH.dvc lies beside it"
    )
    format: NestedFormat = Field(FolderSource(kind="folder", path="."), description="a source without its place")

    def stated_version(self, project: Path) -> str:
        """The hash in the .dvc file; no image needs to be there. Raises BadSource."""
        return tracked_hash(self.folder_in(project))

    def folder_in(self, project: Path) -> Path:
        """The tracked folder, whether or not it is there."""
        return project / Path(self.path).expanduser()

    def root_in(self, project: Path) -> Path:
        """The root of the nested format. Raises MissingSource where the files were not pulled."""
        return source_root(self.format, self.folder_in(project))

    def read(self, root: Path) -> Candidates:
        return self.format.read(root)

    def own_files(self, root: Path) -> Sequence[str]:
        return self.format.own_files(root)


def tracked_hash(folder: Path) -> str:
    """What the .dvc file beside a folder states: the MD5 of its listing, such as `1f0c...dir`. Raises BadSource."""
    import yaml

    file = Path(f"{folder}.dvc")
    try:
        document = yaml.safe_load(file.read_bytes())
        (out,) = document["outs"]
        stated, path = str(out["md5"]), str(out["path"])
    except FileNotFoundError:
        raise BadSource(f"{file}: not there; track the folder with `kestrel data add {folder.name}`") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadSource(
            f"{file}: not a .dvc file of one folder ({reason}); restore it, or track the folder anew"
        ) from error
    if path != folder.name:
        raise BadSource(f"{file}: is about {path!r}, not {folder.name!r}; a .dvc file lies beside the folder it names")
    return stated
