"""The table that an act of the demo ends with: a report's rows as text, with baselines and conclusions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace

from jobs.demo.act import Act
from jobs.tables.report import Comparison, Estimate, Report

WIDTH = 112
"""Characters of a line of text."""


def format_table(act: Act, report: Report, baselines: Mapping[str, float]) -> str:
    """The task, the table in percent and what it shows.

    Args:
        act: What was run.
        report: Of a complete sweep.
        baselines: Title -> headline metric without training, a fraction.
    """
    differences = {item.row.name: item.estimate for item in report.comparisons}
    reference = next(row.row.title for row in report.rows if row.row.name == report.ablation.compare_with)
    titles = [*(row.row.title for row in report.rows), *baselines]
    title_width = max(map(len, titles))
    widths = {metric: max(5, len(heading)) for metric, heading in act.columns.items()}
    heading = {metric: f"{heading:>{widths[metric]}}" for metric, heading in act.columns.items()}
    heading[report.headline] += f"  {'interval':>13}"
    lines = [f"{'':{title_width}}  {'trainable':>9}  {'  '.join(heading.values())}  against {reference}, paired"]
    for row in report.rows:
        cells = {metric: f"{100 * row.estimates[metric].mean:{width}.1f}" for metric, width in widths.items()}
        cells[report.headline] += f"  {interval(row.estimates[report.headline]):>13}"
        line = f"{row.row.title:{title_width}}  {row.trainable or 0:9,}  {'  '.join(cells.values())}"
        if row.row.name in differences:
            line += f"  {points(differences[row.row.name])}"
        lines.append(line)
    for title, value in baselines.items():
        lines.append(f"{title:{title_width}}  {0:9,}  {100 * value:{widths[report.headline]}.1f}")
    above, below = (
        [textwrap.fill(text, WIDTH, break_on_hyphens=False) for text in paragraphs]
        for paragraphs in ([act.task, conditions(act, report)], act.closing(report))
    )
    return "\n".join([*above, "", *lines, "", *below])


def conditions(act: Act, report: Report) -> str:
    """How the numbers of the table were made."""
    first = report.rows[0]
    headline, seeds, clips = first.estimates[report.headline], len(first.trials), len(first.trials[0].clip_ids)
    measured = act.measured.format(clips=clips, scores=f"{clips * act.scores_per_clip:,}")
    selected = "test" if "paper" in report.protocols else "val"
    return (
        f"{measured}, mean of {seeds} {'seed' if seeds == 1 else 'seeds'}; checkpoints selected on {selected}, "
        f"the same {act.equal_in_every_row} in every row; 95 % intervals: {headline.method}."
    )


def interval(estimate: Estimate) -> str:
    """`` 40.9 -  50.8`` percent."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:5.1f} - {100 * estimate.high:5.1f}"


def points(difference: Estimate) -> str:
    """``-32.1 (-35.0 to -29.2)`` percentage points."""
    values = (difference.mean, difference.low, difference.high)
    mean, *ends = (f"{round(100 * value, 1) + 0.0:+.1f}" for value in values if value is not None)
    return f"{mean} ({' to '.join(ends)})" if ends else mean


VERDICTS = {"lower": "helps", "higher": "hurts"}
"""How a rival's score compares with the reference row -> what the reference's extra part does."""


def verdict(report: Report, rival: str, subject: str) -> str:
    """What ``subject``, which the reference row has and ``rival`` lacks, adds: ``interaction helps, +34.0 (...)``."""
    found: Comparison = next(item for item in report.comparisons if item.row.name == rival)
    lost = found.estimate
    gained = replace(
        lost,
        mean=-lost.mean,
        low=None if lost.high is None else -lost.high,
        high=None if lost.low is None else -lost.low,
    )
    return f"{subject} {VERDICTS.get(found.verdict, 'makes no clear difference')}, {points(gained)}"
