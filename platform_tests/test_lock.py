"""The lock installs what pyproject.toml asks for, byte for byte, from whatever registry the machine uses."""

import re
import subprocess
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE_HOSTS = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("anaconda", "org"),
        ("anaconda", "com"),
        ("conda", "io"),
        ("pypi", "nvidia", "com"),
        ("registry", "npmjs", "org"),
        ("proxy", "golang", "org"),
    ]
]


def lock_entries(text: str) -> dict[str, list[str]]:
    """`name==version [; marker]` to the options below it (`--hash=...`), from a requirements file."""
    entries: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *options = re.split(r"\s+(?=--)", line.strip())
            entries[requirement] = options
    return entries


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = list(project["project"]["dependencies"])
    extras = project["project"]["optional-dependencies"]
    makefile = (ROOT / "Makefile").read_text()
    (locked,) = re.findall(r"^LOCKED = (.*)$", makefile, flags=re.MULTILINE)
    assert sorted(extras) == sorted([*locked.split(), "fiftyone"])
    for extra in locked.split():
        lines += extras[extra]
    return [Requirement(line) for line in lines + project["dependency-groups"]["dev"]]


@pytest.fixture(scope="module")
def locked() -> dict[str, list[str]]:
    return lock_entries((ROOT / "requirements.lock").read_text())


def test_lock__every_entry_is_pinned_and_hashed(locked: dict[str, list[str]]) -> None:
    loose = [
        line
        for line, options in locked.items()
        if not re.match(r"^[A-Za-z0-9._-]+==[^\s*]+", line)
        or not options
        or not all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option.strip()) for option in options)
    ]
    assert len(locked) > 100
    assert loose == [], "run `make lock`"


def test_lock__satisfies_every_requirement_of_pyproject(locked: dict[str, list[str]]) -> None:
    versions = defaultdict(list)
    for requirement in map(Requirement, locked):
        versions[canonicalize_name(requirement.name)].append(next(iter(requirement.specifier)).version)
    unmet = [
        f"{requirement}: the lock has {versions[canonicalize_name(requirement.name)] or 'nothing'}"
        for requirement in wanted()
        if not versions[canonicalize_name(requirement.name)]
        or not all(
            requirement.specifier.contains(version, prereleases=True)
            for version in versions[canonicalize_name(requirement.name)]
        )
    ]
    assert unmet == [], "run `make lock`"


def test_lock__serves_linux_and_macos(locked: dict[str, list[str]]) -> None:
    """A lock solved for one platform has no markers: `--universal` went missing."""
    markers = {str(requirement.marker) for requirement in map(Requirement, locked) if requirement.marker}
    assert any("sys_platform == 'linux'" in marker.replace('"', "'") for marker in markers)
    assert any("darwin" in marker for marker in markers)


def test_lock__names_no_index(locked: dict[str, list[str]]) -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert re.findall(r"https?://\S+|--(?:extra-)?index-url.*|--find-links.*", text) == []


def test_files__name_no_package_host() -> None:
    """A host in a file sends the next machine past its mirror. PACKAGE_HOSTS is put together so as not to be one."""
    found = []
    for path in project_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {host}" for host in PACKAGE_HOSTS if host in text]
    assert found == []


@pytest.mark.parametrize(
    "path", [".env", "data/dagster/history/runs.db", "data/outputs/x/ckpt.safetensors", ".venv/bin/python"]
)
def test_git__ignores_what_a_machine_makes(path: str) -> None:
    assert git("check-ignore", path).returncode == 0, f"{path} would be committed; see .gitignore"


def project_files() -> list[Path]:
    """Every file git has or would add."""
    listing = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    assert listing.returncode == 0, listing.stderr
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    # safe.directory: CI often runs as root in a checkout that another user owns.
    return subprocess.run(["git", "-c", "safe.directory=*", *arguments], cwd=ROOT, capture_output=True, text=True)
