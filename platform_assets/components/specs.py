"""What every asset of the graph shares: its key, group, owners, code version and automation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

PACKAGE = Path(__file__).parents[1]
DEFAULT_OWNERS = ("team:vision",)
SLUG = r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$"
SINGLE_RUN = dg.BackfillPolicy.single_run()

# A new data version of an input asks for one new materialization, and an input made again with the same version for none.
FOLLOWS_ITS_INPUTS = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).since_last_handled()
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.any_deps_in_progress()
).with_label("an input has a new data version")


_IMPORT = re.compile(
    r"^\s*(?:from|import) platform_assets\.([\w.]+)(?: import (?:\(([^)]*)\)|([\w, ]+)))?", re.MULTILINE
)


@cache
def _code_and_imports(path: Path) -> tuple[str, tuple[Path, ...]]:
    """The text of a module without blank and comment lines, and the files of this package that it imports."""
    lines = path.read_text(encoding="utf-8").splitlines()
    code = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    named = [
        (module, *(f"{module}.{name.split()[0]}" for name in (bracketed or plain).split(",") if name.strip()))
        for module, bracketed, plain in _IMPORT.findall(code)
    ]
    files = {PACKAGE.joinpath(*name.split(".")).with_suffix(".py") for names in named for name in names}
    return code, tuple(sorted(file for file in files if file.is_file()))


@cache
def code_version(*modules: str) -> str:
    """A hash over the code of these modules of the vision and stores layers and all they import from this package.

    Names are relative to the package (`vision.probe`). Lines that are blank or only a comment do not count.
    """
    waiting = [PACKAGE.joinpath(*name.split(".")).with_suffix(".py") for name in modules]
    seen: dict[Path, str] = {}
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen[path], imported = _code_and_imports(path)
            waiting.extend(imported)
    digest = hashlib.sha256()
    for path in sorted(seen):
        digest.update(f"{path.relative_to(PACKAGE)}\n{seen[path]}\n".encode())
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
