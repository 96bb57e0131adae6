"""A new task is one file and one line. This one counts the seconds with an event; it is trained and reported."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.runs.evaluation import evaluate_run
from jobs.runs.session import train_run
from jobs.tables.ablation import load_ablation
from jobs.tables.report import SEEDS_AND_CLIPS, collect
from jobs.tables.report_files import render
from stgcma.data.batch import AVBatch, EventTargets
from stgcma.data.events import EventReader
from stgcma.data.reader import Reader
from stgcma.models.adapters import TrainableModule
from stgcma.models.encoder import AudioVisualEncoder, AVFeatures
from stgcma.tasks import TASKS, Metric, TaskSpec
from stgcma.tasks.base import Metrics, Outputs, Task
from tests.factories import write_shards

pytestmark = pytest.mark.slow

BACKGROUND = 28
"""AVE numbers its events from 0 and background last."""


class SecondsHead(TrainableModule):
    """Both branches, averaged over time, -> logits ``[B, C]`` of 0 to ``C - 1`` seconds."""

    role: str = "task_head"

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, num_classes)

    def forward(self, features: AVFeatures, batch: AVBatch) -> Outputs:
        pooled = torch.stack([value.mean(1) for value in features.pooled.values()]).sum(0)
        return {"logits": self.layer(pooled)}


class SecondsAccuracy(Metrics):
    """Fraction of clips whose number of seconds is right."""

    def __init__(self) -> None:
        self.sums = {name: torch.zeros((), dtype=torch.float64) for name in ("right", "clips")}

    def update(self, outputs: Outputs, batch: AVBatch) -> None:
        right = is_right(outputs, batch)
        self.sums["right"] += right.sum()
        self.sums["clips"] += len(right)

    def compute(self) -> dict[str, float]:
        return {"exact": float(self.sums["right"] / self.sums["clips"])}


class SecondsTask(Task):
    """Counts the seconds of a clip that are not background."""

    reader: ClassVar[type[Reader]] = EventReader

    def build_head(self, encoder: AudioVisualEncoder) -> nn.Module:
        return SecondsHead(encoder.output_dim, self.config.num_classes)

    def loss(self, outputs: Outputs, batch: AVBatch) -> Tensor:
        return F.cross_entropy(outputs["logits"], num_seconds(batch))

    def new_metrics(self, *, detailed: bool = False) -> Metrics:
        return SecondsAccuracy()

    def per_clip(self, outputs: Outputs, batch: AVBatch) -> dict[str, dict[str, Tensor]]:
        return {name: {"right": right} for name, right in zip(batch.clip_ids, is_right(outputs, batch), strict=True)}


def num_seconds(batch: AVBatch) -> Tensor:
    """``[B]`` int64."""
    assert isinstance(batch.targets, EventTargets)
    return (batch.targets.labels != BACKGROUND).sum(1)


def is_right(outputs: Outputs, batch: AVBatch) -> Tensor:
    """``[B]`` bool."""
    return outputs["logits"].argmax(-1).cpu() == num_seconds(batch).cpu()


SECONDS = TaskSpec(
    name="seconds",
    implementation=f"{__name__}:SecondsTask",
    annotation="events",
    num_segments=10,
    metrics=(Metric(name="exact", title="exact seconds", clip_score="right"),),
    selection_metric="exact",
)

RECIPE = """
name: seconds
task: seconds
model: {backbone: clip_vit_demo, pretrained: none, num_classes: 11}
data: {dataset: ave}
optim: {epochs: 1, batch_size: 3, learning_rate: 1e-3, warmup_epochs: 0}
"""

TABLE = """
name: table
title: Counting seconds
base: seconds.yaml
seeds: [0, 1]
runs:
  - {name: none, title: no interaction, set: {model.adaptation.fusion: none}}
  - {name: full, title: STG-CMA}
"""


def test_a_task_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "seconds", SECONDS)
    write_shards(tmp_path / "shards")
    (tmp_path / "seconds.yaml").write_text(RECIPE)
    (tmp_path / "table.yaml").write_text(TABLE)
    table = load_ablation(tmp_path / "table.yaml", shards=str(tmp_path / "shards"))

    runs = [train_run(t.config, output=str(tmp_path), device="cpu", tracking="none") for t in table.trials]
    assert [set(run.metrics) for run in runs] == [{"val/exact", "test/exact"}] * 4
    assert evaluate_run(runs[0].run, split="train", device="cpu").metrics.keys() == {"exact"}

    report = collect(table, str(tmp_path))
    assert [row.estimates["test/exact"].method for row in report.rows] == [SEEDS_AND_CLIPS] * 2
    assert [trial.curve[0][1] for trial in report.rows[1].trials] == [
        run.metrics["val/exact"] for run in runs if "full" in run.run_name
    ]
    assert "exact seconds %, ours [95 %]" in render(report, "md")
