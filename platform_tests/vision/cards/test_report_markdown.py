"""The report as a comment on a pull request: what it says, and how long it may become."""

from __future__ import annotations

from platform_assets.vision.cards.report_markdown import report_markdown
from platform_tests.vision.cards.reports import board, facts, trials


def test_report_markdown__leaderboard_verdicts_and_commands() -> None:
    text = report_markdown(facts())
    for said in (
        "## fruit/first: v0 has 0.8050 top1 on test",
        "| 1 | v0 | 2 | 0.9000 | 0.8050 ± 0.0070 | 0.700 to 0.850 | +0.0100 | 0.03 |",
        "| 2 | v1 | 2 | 0.8990 | 0.8040 ± 0.0070 | 0.700 to 0.850 | baseline | - |",
        "- `v0` differs from `v1`: +0.0100 top1, p = 0.03",
        "**Gate.** `v0__s1` is kept: top1 0.8 against 0.9. In service is `fruit_first` version 3",
        "**Failed:**\n- `metrics.metrics_beat_the_majority_class`: margin \\<script\\>",
        "| pear | 4 | 1.0000 | 0.2500 | 0.4000 |\n",
        "```bash\ngit checkout " + "a" * 40 + "\nkestrel materialize fruit/first\n```",
        "torch 2.15.0",
    ):
        assert said in text, said
    assert text.index("| pear |") < text.index("| apple |")


def test_report_markdown__nothing_failed_and_no_gate() -> None:
    text = report_markdown(facts(serving=None, gate=(), checks=()))
    assert "No rule and no check failed." in text
    assert "**Gate.** Not asked yet" in text


def test_report_markdown__is_short_for_many_variants() -> None:
    words = tuple(f"- `v{n}` shows no significant difference to `v249`" for n in range(249))
    text = report_markdown(facts(board=board(250), trials=trials(250), words=words))
    assert "230 more variants." in text
    assert "229 more comparisons." in text
    assert len(text) < 65_536, "GitHub takes no longer comment"
