"""The runner of the demo: both acts in full at their smallest size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.demo.act import Act
from jobs.demo.events_act import events_act
from jobs.demo.masks_act import masks_act
from jobs.demo.runner import load_comparison, require_complete, run_act
from jobs.tables.report import as_json, collect
from stgcma.errors import RunFailedError


@dataclass(frozen=True)
class Case:
    act: Act
    pictures: tuple[str, ...]
    measured: str
    overrides: tuple[str, ...] = ()


CASES = {
    "events": Case(events_act("t1", 8), ("accuracy.png", "clips.png"), "over 30 seconds of 3 clips"),
    "masks": Case(
        masks_act(9),
        ("masks_best.png", "masks_worst.png"),
        "over 15 frames of 3 test clips",
        ("model.pretrained=none",),
    ),
}


def test_a_missing_trial_is_named_with_advice(tmp_path: Path) -> None:
    ablation = load_comparison(events_act(), str(tmp_path / "shards"), (0, 1), ())
    with pytest.raises(RunFailedError, match=r"same command to run them again(.|\n)*stg-cma: seeds 0, 1 not run"):
        require_complete(collect(ablation, str(tmp_path)))


def test_the_sweep_carries_the_name_of_the_act_and_keeps_the_seeds_of_the_file_by_default() -> None:
    ablation = load_comparison(events_act("t3"), "shards", None, ("optim.epochs=1",))
    assert (ablation.name, ablation.seeds, ablation.shards) == ("demo-t3", (0, 1, 2), "shards")
    assert {row.config.data.shards for row in ablation.rows} == {"shards"}
    assert {row.config.optim.epochs for row in ablation.rows} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_whole_act_at_its_smallest(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real media, shards, trained models, table and pictures. A second call trains nothing."""
    case = CASES[name]

    def run() -> dict[str, object]:
        overrides = ("optim.epochs=1", "optim.warmup_epochs=0", *case.overrides)
        report = run_act(case.act, str(tmp_path), seeds=(0,), concurrency=1, num_workers=0, overrides=overrides)
        return as_json(report)

    report, root = run(), tmp_path / case.act.name
    printed = capsys.readouterr().out
    for picture in case.pictures:
        assert (root / "pictures" / picture).read_bytes().startswith(b"\x89PNG")
        assert str(root / "pictures" / picture) in printed
    assert case.measured in printed
    for place in (root / "shards", root / "runs", tmp_path / "mlflow.db"):
        assert str(place) in printed
    assert json.loads((root / "result.json").read_text())["report"] == json.loads(json.dumps(report))
    for row in load_comparison(case.act, "shards", None, ()).rows:
        assert f"\n{row.title} " in printed
    before = {path: path.stat().st_mtime_ns for path in root.rglob("checkpoints/*")}
    assert before
    assert run() == report
    assert {path: path.stat().st_mtime_ns for path in root.rglob("checkpoints/*")} == before
