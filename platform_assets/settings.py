"""Where this deployment keeps its things; the only reader of the environment."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PREFIX = "KESTREL_"

if sys.platform == "darwin":
    # Read when torch is imported: an operator that MPS lacks runs on the CPU instead of ending a training
    # (vision/machine/fallbacks.py).
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")


def _default_root() -> Path:
    """The folder of dagster.yaml: DAGSTER_HOME when set, else the nearest one above the working directory."""
    if home := os.environ.get("DAGSTER_HOME"):
        return Path(home)
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "dagster.yaml").is_file()), here)


def _threads_of_openmp() -> int:
    """OMP_NUM_THREADS, of whose numbers for nested teams torch takes the first; 0 where it names none."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(first) if first.isdecimal() else 0


class Settings(BaseModel):
    """Every setting of a deployment, read from `KESTREL_<NAME>`; all have a default that works on one machine.

    pydantic-settings did the same for 70 ms more, a tenth of `import dagster` (2026-11).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path = Field(default_factory=_default_root, description="the project: the folder of dagster.yaml")
    data: Path | None = Field(None, description="state and results; `data` below the root unless set")
    outputs: str | None = Field(
        None, description="folder or fsspec URL of checkpoints; `outputs` below data unless set"
    )
    mlflow: str | None = Field(None, description="MLflow tracking URI; a SQLite file below data unless set")
    device: Literal["auto", "cpu", "mps", "cuda"] = Field("auto", description="where torch trains")
    engine: Literal["auto", "torch", "onnxruntime", "openvino"] = Field("auto", description="what embeds images")
    threads: int = Field(
        default_factory=_threads_of_openmp,
        ge=0,
        description="of torch's trainings on a CPU, OMP_NUM_THREADS unless set; 0 measures what is fastest",
    )
    pixel_cache_gb: float = Field(0, ge=0, description="disk for decoded pixels, shared by all trials; 0 keeps none")
    executor: Literal["in_process", "multiprocess"] = Field("in_process", description="how the steps of a run execute")

    @model_validator(mode="before")
    @classmethod
    def _read_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        names = (name for name in cls.model_fields if PREFIX + name.upper() in os.environ)
        return {name: os.environ[PREFIX + name.upper()] for name in names} | given

    @cached_property
    def data_dir(self) -> Path:
        return self.root / (self.data or "data")

    @property
    def outputs_url(self) -> str:
        return self.outputs or str(self.data_dir / "outputs")

    @property
    def tables_dir(self) -> Path:
        return self.data_dir / "tables"

    @property
    def cache_dir(self) -> Path:
        return self.data_dir / "cache"

    @property
    def mlflow_uri(self) -> str:
        return self.mlflow or f"sqlite:///{self.data_dir / 'mlflow' / 'mlflow.db'}"


def quiet_environment() -> dict[str, str]:
    """The environment for a `dagster` command, less three warnings that its own command line sets off (dagster 1.13.27)."""
    ours = (
        "Function `asset_materialize_command` is superseded",
        "Parameter `include_sources`",
        "Parameter `execution_type`",
    )
    given = os.environ.get("PYTHONWARNINGS")
    wanted = [*(f"ignore:{text}" for text in ours), *([given] if given else [])]
    return {**os.environ, "PYTHONWARNINGS": ",".join(wanted)}
