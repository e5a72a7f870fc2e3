"""What every asset of the graph shares: its key, group, owners, code version and automation."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from platform_assets.components.experiment_spec import ExperimentSpec

PACKAGE = Path(__file__).parents[1]
DEFAULT_OWNERS = ("team:vision",)
SLUG = r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$"
SINGLE_RUN = dg.BackfillPolicy.single_run()
POOL = "accelerator"

# A new data version of an input asks for one new materialization, and an input made again with the same version for none.
FOLLOWS_ITS_INPUTS = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).since_last_handled()
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.any_deps_in_progress()
).with_label("an input has a new data version")


_IMPORT = re.compile(
    r"^[ \t]*(?:from|import) platform_assets\.([\w.]+)(?: import (?:\(([^)]*)\)|([\w, ]+)))?", re.MULTILINE
)
_NOTHING = re.compile(r"^[ \t]*(?:#.*)?\n", re.MULTILINE)


@cache
def _code_and_imports(path: str) -> tuple[str, tuple[str, ...]]:
    """The text of a module without blank and comment lines, and the files of this package that it imports.

    Paths are strings: of a hundred modules, Path objects took more time than reading them (2026-11).
    """
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        code = _NOTHING.sub("", file.read())
    named = [
        (module, *(f"{module}.{name.split()[0]}" for name in (bracketed or plain).split(",") if name.strip()))
        for module, bracketed, plain in _IMPORT.findall(code)
    ]
    files = {found for names in named for name in names if (found := _file(name)) is not None}
    return code, tuple(sorted(files))


@cache
def _file(module: str) -> str | None:
    """The file of a module, its name relative to the package; None for what is no module."""
    path = f"{PACKAGE}/{module.replace('.', '/')}.py"
    return path if os.path.isfile(path) else None  # noqa: PTH113


@cache
def code_version(*modules: str) -> str:
    """A hash over the code of these modules of the vision and stores layers and all they import from this package.

    Names are relative to the package (`vision.heads.probe`). Lines that are blank or only a comment do not count.
    """
    waiting = [f"{PACKAGE}/{name.replace('.', '/')}.py" for name in modules]
    seen: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen[path], imported = _code_and_imports(path)
            waiting.extend(imported)
    digest = hashlib.sha256()
    for path in sorted(seen):
        digest.update(f"{path.removeprefix(f'{PACKAGE}/')}\n{seen[path]}\n".encode())
    return digest.hexdigest()[:16]


def data_version(*parts: str) -> dg.DataVersion:
    """A data version that is a function of everything that determines the data, and so the same in any run."""
    return dg.DataVersion(hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16])


def asset_spec(
    key: Sequence[str],
    description: str,
    *,
    deps: Sequence[Sequence[str]] = (),
    kinds: set[str],
    code: Sequence[str],
    owners: Sequence[str] = DEFAULT_OWNERS,
    skippable: bool = False,
    condition: dg.AutomationCondition[Any] | None = None,
    metadata: dict[str, str] | None = None,
) -> dg.AssetSpec:
    """An asset of the group its key prefix names: `[dataset, ...]` or `[dataset, experiment, ...]`."""
    return dg.AssetSpec(
        dg.AssetKey(list(key)),
        deps=[dg.AssetKey(list(dep)) for dep in deps],
        description=description,
        group_name="_".join(key[:-1]),
        kinds=kinds,
        owners=list(owners),
        code_version=code_version(*code),
        skippable=skippable,
        automation_condition=condition,
        metadata=metadata or {},
    )


def experiment_asset(spec: ExperimentSpec, name: str, text: str, deps: Sequence[str], **more: Any) -> dg.AssetSpec:
    """`deps` name assets of this experiment, or `dataset.<asset>`."""
    paths = [[spec.dataset, d.removeprefix("dataset.")] if d.startswith("dataset.") else [*spec.key, d] for d in deps]
    return asset_spec([*spec.key, name], text, deps=paths, owners=spec.owners, **more)


def op_name(spec: ExperimentSpec, name: str) -> str:
    return f"{spec.group}__{name}"
