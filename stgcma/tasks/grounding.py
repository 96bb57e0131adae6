"""Pre-training of the grounding layers: match segments of sound with frames (method section 5, step 4).

The task reads the shards of question answering without the questions. ``jobs/runs/grounding.py`` saves the layers as a
file for ``model.grounding_checkpoint``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.data.questions import MatchReader
from stgcma.data.reader import Reader
from stgcma.models.avqa_head import MatchHead
from stgcma.models.encoder import AudioVisualEncoder
from stgcma.models.grounding import Grounding
from stgcma.tasks.avqa import match_loss
from stgcma.tasks.base import Metrics, Outputs, Task


class MatchAccuracy(Metrics):
    """Fraction of (sound, frame) pairs that are classified correctly. Half of the pairs match, so chance is 0.5."""

    def __init__(self) -> None:
        self.sums = {"correct": torch.zeros((), dtype=torch.float64), "pairs": torch.zeros((), dtype=torch.float64)}

    def update(self, outputs: Outputs, batch: AVBatch) -> None:
        positive, negative = outputs["match_positive"], outputs["match_negative"]
        self.sums["correct"] += (positive.argmax(-1) == 1).sum().cpu() + (negative.argmax(-1) == 0).sum().cpu()
        self.sums["pairs"] += positive[..., 0].numel() + negative[..., 0].numel()

    def compute(self) -> dict[str, float]:
        return {"match_accuracy": float(self.sums["correct"] / self.sums["pairs"].clamp_min(1))}


class GroundingTask(Task):
    """Trains the match branch on frozen features, like the published grounding models."""

    reader: ClassVar[type[Reader]] = MatchReader

    def build_head(self, encoder: AudioVisualEncoder) -> nn.Module:
        grounding = Grounding(encoder.output_dim, self.config.avqa_variant, self.config.answer_head)
        return MatchHead(grounding, encoder.plain_visual)

    def loss(self, outputs: Outputs, batch: AVBatch) -> Tensor:
        """Cross-entropy, mean over all pairs."""
        assert isinstance(batch.targets, QuestionTargets)
        return match_loss(outputs, batch.targets)

    def new_metrics(self, *, detailed: bool = False) -> Metrics:
        return MatchAccuracy()
