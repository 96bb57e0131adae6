"""Accuracy over segments, and the confusion matrix if detailed."""

from __future__ import annotations

import torch

from stgcma.data.batch import AVBatch, EventTargets
from stgcma.tasks.base import Metrics, Outputs


class SegmentAccuracy(Metrics):
    """Fraction of segments whose largest logit belongs to the label, background included (method section 7).

    If detailed, ``sums["confusion"]`` is ``[C, C]``: rows are labels, columns are predictions.
    """

    def __init__(self, num_classes: int, *, detailed: bool = False) -> None:
        self.num_classes = num_classes
        self.sums = {"correct": torch.zeros((), dtype=torch.float64), "segments": torch.zeros((), dtype=torch.float64)}
        if detailed:
            self.sums["confusion"] = torch.zeros(num_classes, num_classes, dtype=torch.float64)

    def update(self, outputs: Outputs, batch: AVBatch) -> None:
        assert isinstance(batch.targets, EventTargets)
        labels = batch.targets.labels.flatten().cpu()
        predicted = outputs["logits"].detach().argmax(-1).flatten().cpu()
        self.sums["correct"] += (predicted == labels).sum()
        self.sums["segments"] += labels.numel()
        if "confusion" in self.sums:
            cells = torch.bincount(labels * self.num_classes + predicted, minlength=self.num_classes**2)
            self.sums["confusion"] += cells.view(self.num_classes, self.num_classes)

    def compute(self) -> dict[str, float]:
        """``accuracy``; if detailed, also ``accuracy/class_<index>`` of every class that occurs."""
        values = {"accuracy": float(self.sums["correct"] / self.sums["segments"].clamp_min(1))}
        if "confusion" in self.sums:
            confusion = self.sums["confusion"]
            support = confusion.sum(1)
            for index in torch.nonzero(support).flatten().tolist():
                values[f"accuracy/class_{index:02d}"] = float(confusion[index, index] / support[index])
        return values
