"""What a report of an experiment says, whatever it is written as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from platform_assets.vision.cards.line_charts import LineChart
from platform_assets.vision.evaluation.metrics import Metrics


class Outcome(BaseModel):
    """A rule of the gate, an asset check or a trial: whether it holds, None where it was not looked at, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool | None
    said: str = ""
    seconds: float = 0.0


class Serving(BaseModel):
    """The model in service and what the gate said of the latest candidate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: int
    checkpoint_id: str
    candidate: str
    verdict: str
    reason: str


class ShownTrial(BaseModel):
    """The trial that the classes, the mistakes and the environment are of: the one chosen on val.

    `mistakes` are rows of `galleries.worst_mistakes`, `pictures` by file name, `environment` is its env.json.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    trial: str
    checkpoint_id: str
    choice: str
    test: Metrics
    mistakes: pl.DataFrame
    pictures: Mapping[str, bytes]
    environment: Mapping[str, Any]


class ReportFacts(BaseModel):
    """`board` is of `comparison.leaderboard`, `trials` are the metrics rows, `words` the paired tests, a line of Markdown each.

    `env_hashes` and `commits` are those of all trials, without repeats; `commands` make all of it again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    experiment: str
    description: str
    metric: str
    baseline: str
    dataset_version: str
    board: pl.DataFrame
    trials: pl.DataFrame
    words: tuple[str, ...]
    charts: tuple[LineChart, ...]
    shown: ShownTrial
    serving: Serving | None
    gate: tuple[Outcome, ...]
    checks: tuple[Outcome, ...]
    env_hashes: tuple[str, ...]
    commits: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def best(self) -> dict[str, Any]:
        """The first row of the leaderboard."""
        return self.board.row(0, named=True)

    @property
    def drawn(self) -> str:
        """What intervals and paired tests take for one: groups where images of test have groups."""
        test = self.shown.test
        grouped = test.units is not None and test.units < test.images
        return f"the {test.units:,} groups of the images" if grouped else "the images"

    @property
    def failed(self) -> list[Outcome]:
        """Rules and checks that do not hold."""
        return [outcome for outcome in (*self.gate, *self.checks) if outcome.passed is False]
