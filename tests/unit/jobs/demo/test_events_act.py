"""The demo: its table, what it concludes from intervals, and the whole of it at the smallest size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from jobs.demo.events_act import ABLATION, DemoPaths, demo_ablation, run_demo
from jobs.demo.events_table import (
    DemoRow,
    DemoTable,
    chance_accuracy,
    collect_table,
    format_difference,
    format_table,
    reading,
)
from jobs.tables.ablation import load_ablation
from jobs.tables.intervals import Interval
from pipelines.synthetic.ave_clips import SyntheticConfig, make_plan
from pipelines.synthetic.ceilings import compute_ceilings
from stgcma.errors import RunFailedError


def make_table(task: str, differences: dict[str, Interval]) -> DemoTable:
    reference = Interval(0.9, 0.88, 0.92)
    rows = [DemoRow(name="stg-cma", title="STG-CMA", trainable=9, accuracy=reference, per_seed=(0.9,), difference=None)]
    for name, difference in differences.items():
        accuracy = Interval(*(0.9 + value for value in (difference.mean, difference.low, difference.high)))
        rows.append(
            DemoRow(name=name, title=name, trainable=5, accuracy=accuracy, per_seed=(0.5,), difference=difference)
        )
    return DemoTable(
        task=task,
        num_clips=20,
        num_segments=10,
        seeds=(0,),
        rows=tuple(rows),
        chance=0.277,
        ceilings=compute_ceilings(task),
    )


WORSE, SAME, BETTER = Interval(-0.3, -0.34, -0.26), Interval(-0.01, -0.03, 0.01), Interval(0.2, 0.1, 0.3)


def test_conclusions_follow_the_intervals() -> None:
    table = make_table("t4", {"no-interaction": WORSE, "no-interaction-gelu": SAME, "head-only": BETTER})
    shows, limits = reading(table)
    assert "adapting the frozen backbone hurts, -20.0 (-30.0 to -10.0)" in shows
    assert "interaction helps, +30.0 (+26.0 to +34.0)" in shows
    assert "interaction over a non-linear head makes no clear difference, +1.0 (-1.0 to +3.0)" in shows
    assert "needs a product" in shows
    assert "real clips" in limits


def test_a_task_that_a_sum_decides_is_said_to_need_no_interaction() -> None:
    table = make_table("t1", {"no-interaction": SAME, "no-interaction-gelu": SAME, "head-only": WORSE})
    assert "A sum of the modalities decides this task" in reading(table)[0]


def test_table_prints_every_row_with_its_interval() -> None:
    text = format_table(make_table("t4", {"no-interaction": WORSE, "no-interaction-gelu": SAME, "head-only": WORSE}))
    line = next(line for line in text.splitlines() if line.startswith("no-interaction "))
    assert line.split() == ["no-interaction", "5", "60.0", "56.0", "-", "64.0", "-30.0", "(-34.0", "to", "-26.0)"]
    assert "200 seconds of 20 clips" in text
    assert "eyes alone 45.4, ears alone 30.5, a sum of what both say 63.8 (at the very most 81.9)" in text


def test_no_difference_has_no_minus_sign() -> None:
    assert format_difference(Interval(-0.0, -0.0001, 0.0)) == "+0.0 (+0.0 to +0.0)"


def test_chance_is_the_majority_class_of_training_on_test() -> None:
    config = SyntheticConfig(task="t1", num_train=60, num_val=1, num_test=40)
    labels = np.array([make_plan(config, "test", index).labels for index in range(40)])
    assert chance_accuracy(config) == (labels == 6).mean()


def test_every_row_of_the_comparison_differs_from_the_recipe_in_what_it_says() -> None:
    ablation = load_ablation(ABLATION)
    assert [row.name for row in ablation.rows] == [
        "stg-cma",
        "no-interaction",
        "no-interaction-gelu",
        "visual-only",
        "audio-only",
        "head-only",
    ]
    assert len(ablation.seeds) == 3
    assert {row.config.optim.learning_rate for row in ablation.rows} <= {1e-3, 2e-3, 4e-3}
    rest = {replace(row.config.optim, learning_rate=1.0) for row in ablation.rows}
    assert len(rest) == 1, "the rate is tuned for every row alike, all else is the same"
    for adaptation in (row.config.model.adaptation for row in ablation.rows[1:-1]):
        assert adaptation.fusion == "none" or len(adaptation.running) == 1
    assert (ablation.rows[-1].name, ablation.rows[-1].config.model.adaptation.method) == ("head-only", "none")
    assert ablation.rows[0].config.optim.protocol == "val"


def test_a_missing_trial_is_named(tmp_path: Path) -> None:
    ablation = demo_ablation(DemoPaths(output=str(tmp_path), task="t4"), None, ())
    with pytest.raises(RunFailedError, match=r"stg-cma seed 0 has not finished"):
        collect_table(ablation, str(tmp_path / "runs"), SyntheticConfig(num_train=6, num_val=1, num_test=1))


@pytest.mark.parametrize(("words", "played"), [((), [1, 2]), (("--act", "1"), [1]), (("--act", "2"), [2])])
def test_both_acts_are_played_unless_one_is_chosen(
    words: tuple[str, ...], played: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr("jobs.demo.events_act.run_demo", lambda *arguments, **options: seen.append(1))
    monkeypatch.setattr("jobs.demo.masks_act.run_demo_masks", lambda *arguments, **options: seen.append(2))
    with pytest.raises(SystemExit) as end:
        main(["demo", *words])
    assert not end.value.code
    assert seen == played


@pytest.mark.slow
def test_the_whole_demo_at_its_smallest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real mp4 files, shards, six trained models, table and pictures; the second call finds everything done."""
    overrides = ("optim.epochs=1", "optim.warmup_epochs=0")
    arguments = {"clips": 8, "seeds": (0,), "concurrency": 1, "num_workers": 0, "overrides": overrides}
    table = run_demo(str(tmp_path), "t1", **arguments)
    assert len(table.rows) == 6
    assert all(0 <= row.accuracy.low <= row.accuracy.mean <= row.accuracy.high <= 1 for row in table.rows)
    paths = DemoPaths(output=str(tmp_path), task="t1")
    for name in ("accuracy.png", "clips.png"):
        assert (paths.pictures / name).read_bytes().startswith(b"\x89PNG")
    stored = json.loads((paths.root / "result.json").read_text())
    assert [row["name"] for row in stored["rows"]] == [row.name for row in table.rows]
    printed = capsys.readouterr().out
    for place in (paths.shards, paths.runs, paths.tracking, str(paths.pictures)):
        assert place in printed
    before = {path: path.stat().st_mtime_ns for path in paths.root.rglob("checkpoints/*")}
    again = run_demo(str(tmp_path), "t1", **arguments)
    assert replace(again, rows=()) == replace(table, rows=())
    assert again.rows == table.rows
    assert {path: path.stat().st_mtime_ns for path in paths.root.rglob("checkpoints/*")} == before
