"""Formats the table at the end of an act: the rows of a report as text, with baselines and conclusions."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace

from jobs.demo.act import Act
from jobs.tables.report import Comparison, Estimate, Report

WIDTH = 112
"""Characters per line of the paragraphs."""


def format_table(act: Act, report: Report, baselines: Mapping[str, float]) -> str:
    """The task, the table in percent and the conclusions.

    Args:
        act: The act.
        report: Report of a complete sweep.
        baselines: Title -> main metric without training, a fraction.
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
    """The sentence above the table that says how its numbers were measured."""
    first = report.rows[0]
    headline, seeds, clips = first.estimates[report.headline], len(first.trials), len(first.trials[0].clip_ids)
    measured = act.measured.format(clips=clips, scores=f"{clips * act.scores_per_clip:,}")
    selected = "test" if "paper" in report.protocols else "val"
    return (
        f"{measured}, mean of {seeds} {'seed' if seeds == 1 else 'seeds'}; checkpoints selected on {selected}, "
        f"the same {act.equal_in_every_row} in every row; 95 % intervals: {headline.method}."
    )


def interval(estimate: Estimate) -> str:
    """The interval in percent: `` 40.9 -  50.8``."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{100 * estimate.low:5.1f} - {100 * estimate.high:5.1f}"


def points(difference: Estimate) -> str:
    """A difference in percentage points: ``-32.1 (-35.0 to -29.2)``."""
    values = (difference.mean, difference.low, difference.high)
    mean, *ends = (f"{round(100 * value, 1) + 0.0:+.1f}" for value in values if value is not None)
    return f"{mean} ({' to '.join(ends)})" if ends else mean


VERDICTS = {"lower": "helps", "higher": "hurts"}
"""Score of another row relative to the reference row -> effect of what only the reference row has."""


def verdict(report: Report, rival: str, subject: str) -> str:
    """The effect of ``subject``, which the reference row has and another row lacks.

    Args:
        report: Report of a complete sweep.
        rival: Name of the other row.
        subject: What to call the difference between the rows.

    Returns:
        For example ``interaction helps, +34.0 (+28.4 to +39.3)``.
    """
    found: Comparison = next(item for item in report.comparisons if item.row.name == rival)
    lost = found.estimate
    gained = replace(
        lost,
        mean=-lost.mean,
        low=None if lost.high is None else -lost.high,
        high=None if lost.low is None else -lost.low,
    )
    return f"{subject} {VERDICTS.get(found.verdict, 'makes no clear difference')}, {points(gained)}"
