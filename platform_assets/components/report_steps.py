"""The body of the report asset, and its facts from the tables of an experiment and the folders of its trials."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from platform_assets.components import metadata as show
from platform_assets.components.champion_steps import read_champion
from platform_assets.components.check_results import last_evaluation
from platform_assets.components.leaderboard_steps import conclusion, folder_urls, metrics_rows
from platform_assets.components.specs import data_version
from platform_assets.components.view_steps import view_pictures
from platform_assets.stores.whole_files import write_whole

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.components.experiment_spec import ExperimentSpec
    from platform_assets.components.vision_dataset import VisionDatasetSpec
    from platform_assets.resources import FilesResource
    from platform_assets.stores.outputs import OutputFolder, Outputs
    from platform_assets.stores.tables import Tables
    from platform_assets.vision.cards.line_charts import Line, LineChart
    from platform_assets.vision.cards.report_facts import Outcome, ReportFacts, Serving, ShownTrial

REPORT = (
    "The experiment in one HTML page that needs no network: leaderboard, paired tests, gate and checks, curves, classes, worst "
    "mistakes, environment and the commands that make it again."
)
CODE = ("vision.cards.report_page", "vision.cards.report_markdown", "vision.evaluation.comparison")
CHARTED_VARIANTS, CHARTED_SEEDS = 12, 6
MISTAKES = 32


class StaleLeaderboard(ValueError):
    """A leaderboard of other trials than there are now."""


def report(
    spec: ExperimentSpec, dataset: VisionDatasetSpec, facts: ReportFacts, files: FilesResource
) -> dg.MaterializeResult[Any]:
    from platform_assets.vision.cards.report_markdown import report_markdown

    page = html_page(facts, image_root(spec, dataset, files))
    path = write_whole(files.card(*spec.key, "report", suffix=".html"), page)
    return dg.MaterializeResult(
        data_version=data_version(page),
        metadata={
            "page": dg.MetadataValue.path(str(path)),
            "page_bytes": len(page.encode()),
            "preview": dg.MetadataValue.md(report_markdown(facts)),
            "trials": facts.trials.height,
            "failed": show.table(_failed(facts)) if facts.failed else 0,
            "confusion": show.picture(facts.shown.pictures["confusion.png"]),
        },
    )


def _failed(facts: ReportFacts) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame([outcome.model_dump(include={"name", "said"}) for outcome in facts.failed])


def html_page(facts: ReportFacts, images: Path) -> str:
    """`images` is the folder that the paths of predictions start at."""
    from platform_assets.vision.cards.report_page import report_page
    from platform_assets.vision.images.image_files import reader_of

    return report_page(facts, reader_of(images))


def image_root(spec: ExperimentSpec, dataset: VisionDatasetSpec, files: FilesResource) -> Path:
    return files.tiny_subset(dataset.name) if spec.subset == "tiny" else files.source_root(dataset.source)


def report_facts(
    spec: ExperimentSpec, tables: Tables, outputs: Outputs, *, checks: Sequence[Outcome] = ()
) -> ReportFacts:
    """Raises MissingTable, naming the command, where a trial or the leaderboard was not materialized, and StaleLeaderboard."""
    from platform_assets.vision.cards.report_facts import ReportFacts

    board, rows = tables.read([*spec.key, "leaderboard"]), metrics_rows(spec, tables)
    _require_current(spec, board, rows)
    folders = {trial: outputs.at(url) for trial, url in folder_urls(spec, tables, spec.trials).items()}
    stamps = [json.loads(folder.path("env.json").read_bytes()) for folder in folders.values()]
    shown = _shown(spec, tables, rows, folders)
    return ReportFacts(
        experiment="/".join(spec.key),
        description=spec.description,
        metric=spec.metric,
        baseline=spec.baseline,
        dataset_version=tables.current_version([spec.dataset, "records"]) or "",
        board=board,
        trials=rows,
        words=tuple(conclusion(board, spec).splitlines()),
        charts=tuple(_charts(spec, board, folders)),
        shown=shown,
        serving=_serving(spec, tables),
        gate=tuple(gate_outcomes(spec, tables)),
        checks=tuple(checks),
        env_hashes=tuple(dict.fromkeys(stamp["env_hash"] for stamp in stamps)),
        commits=tuple(dict.fromkeys(stamp["git_commit"] or "not in git" for stamp in stamps)),
        commands=tuple(_commands(spec, shown.environment["git_commit"])),
    )


def _require_current(spec: ExperimentSpec, board: pl.DataFrame, rows: pl.DataFrame) -> None:
    import polars as pl

    means = dict(rows.group_by("variant").agg(pl.col(f"val_{spec.metric}").mean()).iter_rows())
    found = dict(board.select("variant", "val_mean").iter_rows())
    changed = sorted(v for v in means.keys() | found.keys() if abs(means.get(v, -1) - found.get(v, -1)) > 1e-9)
    if changed:
        name = "/".join(spec.key)
        raise StaleLeaderboard(
            f"{name}/leaderboard is of other trials of {', '.join(changed[:5])} than there are now; make it again with: "
            f"kestrel materialize {name}"
        )


def _shown(spec: ExperimentSpec, tables: Tables, rows: pl.DataFrame, folders: dict[str, OutputFolder]) -> ShownTrial:
    from platform_assets.vision.cards.report_facts import ShownTrial
    from platform_assets.vision.evaluation.comparison import choose_champion
    from platform_assets.vision.evaluation.metrics import Metrics
    from platform_assets.vision.evaluation.predictions import reliability_bins
    from platform_assets.vision.views.galleries import worst_mistakes
    from platform_assets.vision.views.plots import confusion_matrix, reliability_diagram

    chosen = choose_champion(rows, metric=spec.metric)
    folder = folders[chosen.trial]
    predictions = tables.read([*spec.key, "predictions"], chosen.trial)
    test = Metrics.model_validate(json.loads(folder.path("metrics.json").read_bytes())["test"])
    pictures = {
        "confusion.png": confusion_matrix(test.confusion, [entry.label for entry in test.per_class]),
        "reliability.png": reliability_diagram(reliability_bins(predictions, "test")),
    }
    return ShownTrial(
        trial=chosen.trial,
        checkpoint_id=folder.manifest().checkpoint_id,
        choice=chosen.reason,
        test=test,
        mistakes=worst_mistakes(predictions, most=MISTAKES),
        pictures=pictures | view_pictures(folder),
        environment=json.loads(folder.path("env.json").read_bytes()),
    )


def _serving(spec: ExperimentSpec, tables: Tables) -> Serving | None:
    from platform_assets.vision.cards.report_facts import Serving

    if not tables.exists([*spec.key, "champion"]):
        return None
    return Serving.model_validate(read_champion(spec, tables).model_dump(include=set(Serving.model_fields)))


def gate_outcomes(spec: ExperimentSpec, tables: Tables) -> list[Outcome]:
    """The verdict, which holds unless the candidate is refused, and each rule that it follows from.

    That the candidate serves already is no failure: nothing changed since it was let through.
    """
    from platform_assets.vision.cards.report_facts import Outcome

    if not tables.exists([*spec.key, "champion"]):
        return [
            Outcome(name="verdict", passed=None, said="the gate was not asked, or refused with no model in service")
        ]
    row = read_champion(spec, tables)
    said = f"{row.candidate} is {row.verdict}: {row.reason}"
    verdict = Outcome(name="verdict", passed=row.verdict != "refused", said=said)
    if not row.gate_record:  # judged by code that kept no records
        return [verdict]
    record = tables.read([*spec.key, "gate_records"], row.gate_record)
    return [verdict, *(_rule(finding) for finding in record["rules"][0])]


def _rule(finding: dict[str, Any]) -> Outcome:
    from platform_assets.vision.cards.report_facts import Outcome

    passed, measured = finding["passed"], finding["measured"]
    figures = "" if measured is None else f"{measured:.4g} measured, threshold {finding['threshold']:.4g}"
    serves_already = finding["rule"] == "is_not_the_incumbent" and not passed
    holds = None if serves_already else passed
    return Outcome(name=finding["rule"], passed=holds, said=figures if passed else finding["said"])


def trial_outcomes(spec: ExperimentSpec, tables: Tables) -> list[Outcome]:
    """Every trial of the YAML file; one without metrics has failed or was not run."""
    from platform_assets.vision.cards.report_facts import Outcome

    outcomes = []
    for trial in spec.trials:
        if not tables.exists([*spec.key, "metrics"], trial):
            cure = f"kestrel materialize {'/'.join(spec.key)} --trial {trial}"
            outcomes.append(Outcome(name=trial, passed=False, said=f"it has no metrics; make them with: {cure}"))
            continue
        row = tables.read([*spec.key, "metrics"], trial).row(0, named=True)
        said = (
            f"test {spec.metric} {row[f'test_{spec.metric}']:.4f}, val {row[f'val_{spec.metric}']:.4f}, "
            f"checkpoint {row['checkpoint_id']}"
        )
        outcomes.append(Outcome(name=trial, passed=True, said=said, seconds=row["train_seconds"]))
    return outcomes


def _charts(spec: ExperimentSpec, board: pl.DataFrame, folders: dict[str, OutputFolder]) -> Iterator[LineChart]:
    """The course of the first seeds of the best variants; a combination has none."""
    import polars as pl

    from platform_assets.vision.cards.line_charts import LineChart

    for variant in board["variant"].head(CHARTED_VARIANTS):
        trials = [trial for trial, (name, _) in spec.trials.items() if name == variant][:CHARTED_SEEDS]
        courses = {trial: _course(trial, pl.read_parquet(folders[trial].path("history.parquet"))) for trial in trials}
        x_labels = {label for label, _ in courses.values()}
        lines = tuple(line for _, line in courses.values() if line is not None)
        if lines and len(x_labels) == 1:
            yield LineChart(title=variant, x_label=x_labels.pop(), y_label=f"val {spec.metric}", lines=lines)


def _course(trial: str, history: pl.DataFrame) -> tuple[str, Line | None]:
    """What the horizontal axis is, and the metric on val along it: by epoch, or by the option that a head was chosen by."""
    from platform_assets.vision.cards.line_charts import Line
    from platform_assets.vision.views.plots import OPTION_NAMES

    axis = next((name for name in ("epoch", *OPTION_NAMES) if name in history.columns), None)
    if axis is None:
        return "", None
    if "features" in history.columns:  # of the features that were chosen, one line
        history = history.filter(features=history.filter("chosen")["features"][0])
    rows = history.drop_nulls([axis, "val_metric"]).sort(axis)
    points = tuple((float(x), float(y)) for x, y in rows.select(axis, "val_metric").rows())
    return OPTION_NAMES.get(axis, axis).partition(" (")[0], Line(name=trial, points=points) if points else None


def _commands(spec: ExperimentSpec, commit: str | None) -> Iterator[str]:
    """From a clone to these tables; what a checkout alone does not give is said."""
    if commit is None:
        yield "# the project was not in git when the trial was made"
    else:
        sha = commit.removesuffix("-dirty")
        yield f"git checkout {sha}" + ("  # with changes that were not committed" if sha != commit else "")
    yield "make setup  # a project of your own: install the versions of env.json"
    yield f"kestrel materialize {spec.dataset}"
    yield f"kestrel materialize {'/'.join(spec.key)}"
    yield f"kestrel report {'/'.join(spec.key)} --format html --output report.html"


def latest_checks(instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey]) -> list[Outcome]:
    """The last evaluation of every one of these checks; None where there is none."""
    from platform_assets.vision.cards.report_facts import Outcome

    outcomes = []
    for key in sorted(keys):
        found = last_evaluation(instance, key)
        passed, said = (None, "") if found is None else (bool(found[1].passed), found[1].description or "")
        outcomes.append(Outcome(name=f"{key.asset_key.path[-1]}.{key.name}", passed=passed, said=said))
    return outcomes
