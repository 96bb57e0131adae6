"""A new adaptation is one file and one line. This one is trained, loaded and reported: block scales and biases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from jobs.runs.evaluation import evaluate_run
from jobs.runs.session import train_run
from jobs.tables.ablation import load_ablation
from jobs.tables.report import collect
from jobs.tables.report_files import render
from stgcma.models.adaptations import ADAPTATIONS
from stgcma.models.adaptations.base import Adaptation, BlockPlace
from stgcma.models.adapters import Tokens, TrainableModule
from stgcma.models.backbones.base import FrozenBlock
from stgcma.models.parameters import count_parameters, trainable_parameters
from stgcma.training.trained_model import load
from tests.factories import write_shards

pytestmark = pytest.mark.slow


class ScaledBlock(TrainableModule):
    """The frozen block with a trained scale of its attention for each branch."""

    role: str = "scales"

    def __init__(self, place: BlockPlace, start: float) -> None:
        super().__init__()
        self.scales = nn.ParameterDict({branch: nn.Parameter(torch.tensor(start)) for branch in place.branches})

    def forward(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        attended = frozen.attend_space(x)
        x = {b: value + self.scales[b] * frozen.from_groups(attended[b], value) for b, value in x.items()}
        out = frozen.feed_forward(x)
        return {b: value + out[b] for b, value in x.items()}


@dataclass(frozen=True, kw_only=True)
class ScaledAttention(Adaptation):
    """Trains the scales of ``ScaledBlock``, and the query, key and value biases of the backbone for both branches."""

    method: Literal["scaled"] = "scaled"
    start: float = 1.0
    """Initial scales; with 1 the model computes the frozen backbone."""

    def build_block(self, frozen: FrozenBlock, place: BlockPlace) -> nn.Module:
        return ScaledBlock(place, self.start)

    def releases(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.MultiheadAttention) and name.endswith("bias")


RECIPE = """
name: base
task: ave
model: {backbone: clip_vit_demo, pretrained: none, adaptation: {size: tiny}}
data: {dataset: ave}
optim: {epochs: 1, batch_size: 3, learning_rate: 1e-2, warmup_epochs: 0}
"""

TABLE = """
name: table
title: Which adaptation?
base: base.yaml
seeds: [0]
compare_with: stg-cma
runs:
  - {name: stg-cma, title: STG-CMA}
  - {name: scaled, title: scaled attention, set: {model.adaptation: {method: scaled, start: 0.5}}}
"""


def test_an_adaptation_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ADAPTATIONS, "scaled", ScaledAttention)
    write_shards(tmp_path / "shards")
    (tmp_path / "base.yaml").write_text(RECIPE)
    (tmp_path / "table.yaml").write_text(TABLE)
    table = load_ablation(tmp_path / "table.yaml", shards=str(tmp_path / "shards"))
    assert table.rows[1].config.model.adaptation == ScaledAttention(start=0.5)

    runs = [train_run(t.config, output=str(tmp_path), device="cpu", tracking="none") for t in table.trials]
    model = load(runs[1].run).model
    counts = count_parameters(model).by_role
    assert counts["scales"] == 4 * 2  # blocks, branches
    assert counts["released_backbone"] == 4 * 3 * 64  # blocks, (query, key, value), width
    trained = trainable_parameters(model)
    scales = [value for name, value in trained.items() if ".scales." in name]
    biases = [value for name, value in trained.items() if name.endswith("in_proj_bias")]
    assert (len(scales), len(biases)) == (8, 4)
    assert all(scale != 0.5 for scale in scales)
    assert all(bias.any() for bias in biases)  # they start at zero

    evaluation = evaluate_run(runs[1].run, split="test", device="cpu")  # from the checkpoint
    assert evaluation.metrics["accuracy"] == runs[1].metrics["test/accuracy"]

    report = collect(table, str(tmp_path))
    assert [row.trainable for row in report.rows] == [run.parameters["trainable"] for run in runs]
    assert "scaled attention" in render(report, "md")
