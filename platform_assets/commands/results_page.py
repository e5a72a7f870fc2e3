"""The leaderboards of several experiments on one Markdown page, with the stamp of every trial behind their rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from platform_assets.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from platform_assets.commands.trial_stamps import TrialStamp
    from platform_assets.components.experiment_spec import ExperimentSpec

_BOARD = {
    "rank": "rank",
    "variant": "variant",
    "backbone": "backbone",
    "mode": "mode",
    "image_size_px": "px",
    "seeds": "seeds",
    "val_mean": "val",
    "val_std": "std",
    "test_mean": "test",
    "test_std": "std",
    "test_low": "95 % from",
    "test_high": "to",
    "difference": "to baseline",
    "p_holm": "p (Holm)",
    "test_top1_mean": "test top-1",
    "test_macro_f1_mean": "test macro-F1",
    "parameters": "parameters",
    "train_seconds": "fit s",
    "published_top1": "published top-1",
    "published_source": "source",
}
_HOW = (
    "Variants are ranked by their mean on val and reported on test; the interval is a 95 % bootstrap over images{groups} of the "
    "mean over seeds, the p-value that of a paired test of top-1 against the baseline, Holm-corrected."
)


class NoResults(ValueError):
    """An experiment that is not finished, or not there."""


class Results(NamedTuple):
    """One finished experiment: its YAML, its leaderboard and a stamp a trial, in the order of the YAML."""

    spec: ExperimentSpec
    board: pl.DataFrame
    conclusion: str
    stamps: tuple[TrialStamp, ...]


def read_results(what: str) -> Results:
    """`elpv/probes` of the project here, or `FOLDER:grocery/probe` of another one. Raises NoResults and MissingTable."""
    from platform_assets.commands.trial_stamps import read_stamp
    from platform_assets.components.leaderboard_steps import conclusion
    from platform_assets.components.project_specs import experiments
    from platform_assets.resources import resources
    from platform_assets.stores.tables import Tables

    folder, _, name = what.rpartition(":")
    settings = Settings(root=Path(folder).resolve()) if folder else Settings()
    found = {"/".join(spec.key): spec for spec in experiments(settings.root)}
    if name not in found:
        raise NoResults(f"{what}: no such experiment; {settings.root} defines {', '.join(sorted(found)) or 'none'}")
    spec, tables = found[name], Tables(settings.tables_dir)
    board, outputs = tables.read([*spec.key, "leaderboard"]), resources(settings)["outputs"].open()
    urls = [tables.read([*spec.key, "checkpoint"], trial)["folder_url"][0] for trial in spec.trials]
    stamps = tuple(read_stamp(outputs.at(url)) for url in urls)
    if bad := [f"{stamp.name}: {stamp.problems[0]}" for stamp in stamps if stamp.problems]:
        raise NoResults(f"{bad[0]}; results of damaged trials are not published")
    _require_current(what, board, stamps)
    return Results(spec, board, conclusion(board, spec), stamps)


def _require_current(what: str, board: pl.DataFrame, stamps: Sequence[TrialStamp]) -> None:
    """The figures of the leaderboard are those in the folders of its trials, which a new training may have replaced."""
    for variant, mean in board.select("variant", "test_top1_mean").rows():
        scores = [stamp.scores.get("top1", math.nan) for stamp in stamps if stamp.trial.variant == variant]
        if not scores or not math.isclose(sum(scores) / len(scores), mean, abs_tol=1e-9):
            raise NoResults(
                f"{what}: the leaderboard is not of the trials that lie there ({variant}); materialize it again"
            )


def results_page(found: Sequence[Results], command: str) -> str:
    """The page; every figure on it is read from the leaderboards and the folders of the trials."""
    sections = [
        "# Results",
        f"Written by `{command}`, not by hand. {_how(found)}",
        *(part for results in found for part in _sections(results)),
    ]
    return "\n\n".join(sections) + "\n"


def _how(found: Sequence[Results]) -> str:
    """Intervals and tests are over groups where images of test have groups."""
    grouped = ["/".join(each.spec.key) for each in found if any(map(_is_grouped, each.stamps))]
    return _HOW.format(groups=f", in {', '.join(grouped)} over groups of images," if grouped else "")


def _is_grouped(stamp: TrialStamp) -> bool:
    units, images = (stamp.scores.get(name) for name in ("units", "images"))
    return units is not None and images is not None and units < images


def _sections(results: Results) -> list[str]:
    from platform_assets.commands.trial_stamps import excerpt
    from platform_assets.vision.cards.markdown import literal, table

    spec, board = results.spec, results.board
    shown = {name: title for name, title in _BOARD.items() if name in board.columns and board[name].count()}
    versions = sorted({stamp.records_version for stamp in results.stamps})
    rows = [[row[name] for name in shown] for row in board.to_dicts()]
    return [
        f"## {'/'.join(spec.key)}",
        f"{literal(spec.description)} Metric: {spec.metric}. Data version: {', '.join(f'`{each}`' for each in versions)}.",
        table(list(shown.values()), rows),
        results.conclusion,
        "### Trials",
        table(_TRIAL_COLUMNS, [_trial_row(stamp) for stamp in results.stamps]),
        "### Stamps",
        *(excerpt(stamp) for stamp in results.stamps),
    ]


_TRIAL_COLUMNS = ("trial", "test top-1", "test macro-F1", "images", "checkpoint", "config", "environment", "commit")


def _trial_row(stamp: TrialStamp) -> list[Any]:
    scores = [stamp.scores.get(name) for name in ("top1", "macro_f1", "images")]
    env = stamp.environment
    hashes = [stamp.manifest.checkpoint_id, stamp.manifest.config_hash[:16], env["env_hash"][:16]]
    return [stamp.trial.trial, *scores, *hashes, (env["git_commit"] or "none")[:12]]
