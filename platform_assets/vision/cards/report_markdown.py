"""The report of an experiment in Markdown, short enough for a comment on a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from platform_assets.vision.cards.markdown import cell, literal, table
from platform_assets.vision.cards.report_facts import Outcome, ReportFacts

_ROWS, _WORDS, _WORST = 20, 20, 5


def report_markdown(facts: ReportFacts) -> str:
    """Leaderboard, paired tests, gate, what failed, the worst classes, and the commands that make it again."""
    best = facts.best
    head = f"{literal(best['variant'])} has {cell(best['test_mean'])} {facts.metric} on test"
    shown = table(["rank", "variant", "seeds", "val", "test", "95 %", "to baseline", "p, Holm"], list(_board(facts)))
    words = "\n".join(facts.words[:_WORDS])
    more = len(facts.words) - _WORDS
    sections = [
        f"## {facts.experiment}: {head}",
        f"Ranked by mean {facts.metric} on val, reported on {facts.shown.test.images:,} images of test.",
        shown if facts.board.height <= _ROWS else f"{shown}\n\n{facts.board.height - _ROWS:,} more variants.",
        f"{words}\n\n{more:,} more comparisons." if more > 0 else words,
        f"**Gate.** {_gate(facts)}",
        _failed(facts.failed),
        f"**Worst classes** of `{facts.shown.trial}`, checkpoint `{facts.shown.checkpoint_id}`:",
        table(["class", "images", "precision", "recall", "F1"], list(_worst(facts))),
        f"<details><summary>Make it again</summary>\n\n{_commands(facts)}\n\n</details>",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _board(facts: ReportFacts) -> Iterator[list[Any]]:
    for row in facts.board.head(_ROWS).to_dicts():
        spread = "" if row["test_std"] is None else f" ± {row['test_std']:.4f}"
        yield [
            row["rank"],
            row["variant"],
            row["seeds"],
            row["val_mean"],
            f"{row['test_mean']:.4f}{spread}",
            f"{row['test_low']:.3f} to {row['test_high']:.3f}",
            "baseline" if row["difference"] is None else f"{row['difference']:+.4f}",
            None if row["p_holm"] is None else f"{row['p_holm']:.3g}",
        ]


def _gate(facts: ReportFacts) -> str:
    if facts.serving is None:
        return "Not asked yet, or it refused with no model in service."
    serving = facts.serving
    return (
        f"`{serving.candidate}` is {serving.verdict}: {literal(serving.reason)}. In service is `{serving.model}` "
        f"version {serving.version}, checkpoint `{serving.checkpoint_id}`."
    )


def _failed(failed: list[Outcome]) -> str:
    lines = [f"- `{outcome.name}`: {literal(outcome.said) or 'see the Dagster UI'}" for outcome in failed]
    return "\n".join(["**Failed:**", *lines]) if lines else "No rule and no check failed."


def _worst(facts: ReportFacts) -> Iterator[list[Any]]:
    """Classes with images, lowest F1 first."""
    seen = [entry for entry in facts.shown.test.per_class if entry.images]
    for entry in sorted(seen, key=lambda entry: (entry.f1 or 0.0, entry.label))[:_WORST]:
        yield [entry.label, entry.images, entry.precision, entry.recall, entry.f1]


def _commands(facts: ReportFacts) -> str:
    environment = facts.shown.environment
    text = "\n".join(facts.commands)
    return (
        f"```bash\n{text}\n```\n\nEnvironment `{environment['env_hash'][:16]}`: {environment['os_version']}, Python "
        f"{environment['python_version']}, torch {environment['torch_version']}."
    )
