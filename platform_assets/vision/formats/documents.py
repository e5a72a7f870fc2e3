"""JSON and YAML documents of a source, checked against a model; an error names the file and the place in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from platform_assets.vision.datasets.label_map import LabelMap, normal_label
from platform_assets.vision.datasets.sources import BadSource, refusal


class Document(BaseModel):
    """A piece of a published format: the keys named here must be as published, others are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


def _class_name(text: str) -> str:
    if not (name := normal_label(text)):
        raise ValueError("a class name is empty")
    return name


ClassName = Annotated[str, AfterValidator(_class_name)]
"""A class name as the label map writes it."""

_Model = TypeVar("_Model", bound=BaseModel)


def read_json(model: type[_Model], root: Path, file: str) -> _Model:
    """A JSON file below the root. Raises BadSource."""
    try:
        return model.model_validate_json(read_bytes(root, file))
    except ValidationError as error:
        raise BadSource(f"{file}: {_first(error)}; correct the file") from None


def read_yaml(model: type[_Model], root: Path, file: str) -> _Model:
    """A YAML file below the root, plain values alone. Raises BadSource."""
    import yaml

    try:
        content = yaml.safe_load(read_bytes(root, file))
        if not isinstance(content, dict):
            raise BadSource(f"{file}: it has no keys with values, as it should; correct the file")
        return model.model_validate(content)
    except BadSource:
        raise
    except ValidationError as error:
        raise BadSource(f"{file}: {_first(error)}; correct the file") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadSource(f"{file}{line}: not YAML: {error.problem}; correct the file") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # odd characters, impossible dates, too deep
        raise BadSource(f"{file}: not YAML: {str(error).splitlines()[0]}; correct the file") from None


def read_bytes(root: Path, file: str) -> bytes:
    """The content of a regular file below the root, without a byte order mark. Raises BadSource."""
    if why := refusal(root.resolve(), file):
        raise BadSource(f"{file} of {root}: {why[1]}; correct its name in the source")
    try:
        return (root / file).read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise BadSource(f"{file}: {error.strerror}; make it readable") from None


def class_list(names: Iterable[str], where: str) -> tuple[str, ...]:
    """The names as a class list. Raises BadSource when one is empty or repeats; `where` says whose they are."""
    try:
        return LabelMap.from_labels((), tuple(names)).names
    except ValidationError as error:
        raise BadSource(f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _first(error: ValidationError) -> str:
    """The first problem, with its place: `images.3.file_name: Field required`. Names of types in it are left out."""
    first = error.errors()[0]
    steps = [str(step) for step in first["loc"] if step not in ("int", "str", "float") and "[" not in str(step)]
    said = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(steps)}: {said}" if steps else said
