"""The demo's table: numbers, widths and verdicts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobs.demo.events_act import events_act
from jobs.demo.masks_act import masks_act
from jobs.demo.table import WIDTH, format_table, points, verdict
from tests.unit.jobs.demo.helpers import Interval, estimate, make_report

WORSE, SAME, BETTER = (-0.2, -0.25, -0.15), (-0.01, -0.05, 0.03), (0.2, 0.15, 0.25)


def test_every_row_has_its_interval_and_its_paired_difference() -> None:
    report = make_report(
        events_act(), {"no-interaction": WORSE, "no-interaction-gelu": SAME, "head-only": WORSE, "visual-only": WORSE}
    )
    lines = format_table(events_act(), report, {"chance": 0.277}).splitlines()
    start = next(index for index, line in enumerate(lines) if "trainable" in line)
    assert lines[start : start + 3] == [
        "                                  trainable  accuracy %       interval  against STG-CMA, paired",
        "STG-CMA                               1,234        70.0   68.0 -  72.0",
        "no interaction                        1,234        50.0   48.0 -  52.0  -20.0 (-25.0 to -15.0)",
    ]
    assert lines[start + 6] == "chance                                    0        27.7"
    assert max(map(len, lines)) <= WIDTH


def test_further_columns_follow_the_headline_and_its_interval() -> None:
    text = format_table(masks_act(), make_report(masks_act(), {"frozen": WORSE}), {"nothing": 0.088})
    lines = text.splitlines()
    assert "                       trainable  mIoU %       interval    F %  against STG-CMA, paired" in lines
    assert "plain frozen backbone      1,234    50.0   48.0 -  52.0   50.0  -20.0 (-25.0 to -15.0)" in lines
    assert "nothing                        0     8.8" in lines


def test_the_text_above_says_what_was_measured() -> None:
    report = make_report(masks_act(), {"frozen": WORSE}, num_clips=150)
    above = " ".join(format_table(masks_act(), report, {}).split())
    assert "mIoU and F-score over 750 frames of 150 test clips, mean of 1 seed; checkpoints selected on val" in above
    paper = tuple(replace(row, trials=(replace(row.trials[0], protocol="paper"),)) for row in report.rows)
    assert "checkpoints selected on test" in " ".join(
        format_table(masks_act(), replace(report, rows=paper), {}).split()
    )


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (WORSE, "it helps, +20.0 (+15.0 to +25.0)"),
        (BETTER, "it hurts, -20.0 (-25.0 to -15.0)"),
        (SAME, "it makes no clear difference, +1.0 (-3.0 to +5.0)"),
    ],
)
def test_a_verdict_follows_the_interval(difference: Interval, expected: str) -> None:
    assert verdict(make_report(masks_act(), {"frozen": difference}), "frozen", "it") == expected


def test_no_difference_has_no_minus_sign() -> None:
    assert points(estimate(-0.0, -0.0001, 0.0)) == "+0.0 (+0.0 to +0.0)"


def test_a_difference_without_an_interval_is_a_number() -> None:
    assert points(estimate(-0.123, None, None)) == "-12.3"
