"""The parts of the house style that a parser can judge, over every Python file of the project."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for folder in ("platform_assets", "platform_tests") for path in (ROOT / folder).rglob("*.py"))
PRODUCT = [path for path in MODULES if path.is_relative_to(ROOT / "platform_assets")]
MAY_READ_THE_ENVIRONMENT = {ROOT / "platform_assets/settings.py"}
LONGEST_FUNCTION = 60
LONGEST_FILE = {"platform_assets": 400, "platform_tests": 500}
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}


def long_functions(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"{node.lineno}: {node.name} has {lines} lines, more than {LONGEST_FUNCTION}"


def broad_excepts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = (
                {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {"Exception"}
            )
            reraised = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if "Exception" in caught or ("BaseException" in caught and not reraised):
                yield f"{node.lineno}: catches everything; name the error"


def empty_asserts(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant) and node.test.value:
            yield f"{node.lineno}: asserts a constant"


def unpickling(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {str(node.module)} if isinstance(node, ast.ImportFrom) else set()
        for name in names:
            if name.split(".")[0] in UNPICKLERS:
                yield f"{node.lineno}: imports {name}; weights are safetensors, records are JSON or Parquet"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = {k.arg: k.value for k in node.keywords}.get("weights_only")
            if not (isinstance(safe, ast.Constant) and safe.value is True):
                yield f"{node.lineno}: torch.load without weights_only=True runs code from the file"


def environment_reads(tree: ast.Module) -> Iterator[str]:
    """Setting a variable for a library is `os.environ[...] = ...`, and passes; everything else reads."""
    written = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        reads = isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.environb", "os.getenv"}
        imports = isinstance(node, ast.ImportFrom) and node.module == "os"
        if (reads and id(node) not in written) or (
            imports and {alias.name for alias in node.names} & {"environ", "environb", "getenv"}
        ):
            yield f"{node.lineno}: reads the environment; that is settings.py's"


def missing_docstring(tree: ast.Module) -> Iterator[str]:
    if not ast.get_docstring(tree):
        yield "1: no sentence on what belongs in this module"


EVERYWHERE = [long_functions, broad_excepts, empty_asserts, missing_docstring]


@pytest.mark.parametrize("rule", EVERYWHERE)
def test_conventions__hold_everywhere(rule) -> None:
    assert broken(rule, (path for path in MODULES if path.read_text().strip())) == []


def test_conventions__nothing_is_unpickled() -> None:
    assert broken(unpickling, PRODUCT) == []


def test_conventions__one_reader_of_the_environment() -> None:
    assert broken(environment_reads, (path for path in PRODUCT if path not in MAY_READ_THE_ENVIRONMENT)) == []


def test_conventions__files_stay_short() -> None:
    lines = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: count for path, count in lines.items() if count > LONGEST_FILE[path.parts[0]]} == {}


def test_conventions__modules_are_named_after_a_noun_of_the_field() -> None:
    assert [path for path in PRODUCT if path.stem in VAGUE_NAMES or path.parent.name in VAGUE_NAMES] == []


BAD_CODE = [
    (long_functions, "def f():\n" + "    x = 1\n" * 60),
    (broad_excepts, "try: f()\nexcept Exception: pass"),
    (broad_excepts, "try: f()\nexcept (ValueError, Exception) as e: raise"),
    (broad_excepts, "try: f()\nexcept: pass"),
    (broad_excepts, "try: f()\nexcept BaseException: pass"),
    (empty_asserts, "assert True"),
    (unpickling, "import pickle"),
    (unpickling, "from joblib import load"),
    (unpickling, "torch.load(path)"),
    (unpickling, "torch.load(path, weights_only=False)"),
    (environment_reads, "os.getenv('X')"),
    (environment_reads, "run(env={**os.environ, 'X': '1'})"),
    (environment_reads, "from os import environ"),
    (missing_docstring, "x = 1"),
]
GOOD_CODE = '''"""One sentence."""
def f():
    try:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        return torch.load(path, weights_only=True)
    except (OSError, ValueError):
        raise
    except BaseException:
        release()
        raise
'''


@pytest.mark.parametrize(("rule", "code"), BAD_CODE)
def test_rule__sees_bad_code(rule, code: str) -> None:
    assert list(rule(ast.parse(code)))


@pytest.mark.parametrize("rule", [*EVERYWHERE, unpickling, environment_reads])
def test_rule__passes_good_code(rule) -> None:
    assert list(rule(ast.parse(GOOD_CODE))) == []


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def broken(rule, paths) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{finding}" for path in paths for finding in rule(parsed(path))]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name.startswith("bench_")], ids=lambda path: path.stem
)
def test_benchmarks__are_run_by_make_bench(path: Path) -> None:
    """Two were scripts alone, of which `make bench` collected nothing."""
    functions = [node for node in parsed(path).body if isinstance(node, ast.FunctionDef)]
    marks = {ast.unparse(mark) for node in functions if node.name.startswith("test_") for mark in node.decorator_list}
    assert "pytest.mark.bench" in marks, f"{path.name}: no test is marked bench, so `make bench` leaves it out"
