"""The demo's second act: what it compares, what its table says, and the whole of it at its smallest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.demo.events_act import DemoPaths
from jobs.demo.masks_act import ABLATION, MaskRow, MaskTable, format_masks, run_demo_masks
from jobs.tables.ablation import load_ablation
from jobs.tables.intervals import Interval


def row(name: str, miou: float, difference: Interval | None) -> MaskRow:
    interval = Interval(miou, miou - 0.02, miou + 0.02)
    return MaskRow(
        name=name,
        title=name.upper(),
        trainable=1234,
        miou=interval,
        fscore=0.5,
        per_seed=(miou,),
        difference=difference,
    )


def table_with(difference: Interval) -> MaskTable:
    rows = (row("stg-cma", 0.7, None), row("frozen", 0.7 + difference.mean, difference))
    return MaskTable(num_clips=10, seeds=(0, 1), rows=rows, blind={"every object": 0.4567, "nothing": 0.1})


def test_rows_differ_in_adaptation_alone() -> None:
    ablation = load_ablation(ABLATION)
    assert [row.name for row in ablation.rows] == ["stg-cma", "frozen"]
    first = ablation.rows[0].config
    for other in ablation.rows:
        assert (other.config.optim, other.config.data) == (first.optim, first.data)
        assert other.config.model.mask_decoder == first.model.mask_decoder
    assert ablation.rows[-1].config.model.adaptation.method == "none"
    assert first.optim.protocol == "val"


def test_table_shows_percentages_differences_and_what_needs_no_ears() -> None:
    text = format_masks(table_with(Interval(-0.2, -0.25, -0.15)))
    assert "70.0   68.0 -  72.0" in text
    assert "-20.0 (-25.0 to -15.0)" in text
    assert "without listening: every object" in text
    assert " 45.7" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Interval(-0.2, -0.25, -0.15), "helps, +20.0 (+15.0 to +25.0)"),
        (Interval(0.2, 0.15, 0.25), "hurts, -20.0 (-25.0 to -15.0)"),
        (Interval(-0.01, -0.05, 0.03), "makes no clear difference, +1.0 (-3.0 to +5.0)"),
    ],
)
def test_the_reading_follows_the_interval(difference: Interval, verdict: str) -> None:
    assert verdict in format_masks(table_with(difference))


@pytest.mark.slow
def test_the_second_act_at_its_smallest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("optim.epochs=1", "optim.warmup_epochs=0", "model.pretrained=none")
    table = run_demo_masks(str(tmp_path), clips=9, seeds=(0,), concurrency=1, num_workers=0, overrides=overrides)
    assert [r.name for r in table.rows] == ["stg-cma", "frozen"]
    assert table.rows[0].trainable > table.rows[1].trainable
    paths = DemoPaths(output=str(tmp_path), task="masks")
    for name in ("masks_best.png", "masks_worst.png"):
        assert (paths.pictures / name).read_bytes().startswith(b"\x89PNG")
    stored = json.loads((paths.root / "result.json").read_text())
    assert [r["name"] for r in stored["rows"]] == [r.name for r in table.rows]
    printed = capsys.readouterr().out
    for place in (paths.shards, paths.runs, paths.tracking, str(paths.pictures)):
        assert place in printed
