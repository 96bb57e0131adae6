"""Audio-visual question answering on MUSIC-AVQA (method section 5)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.data.questions import QuestionReader
from stgcma.data.reader import Reader
from stgcma.errors import ConfigError
from stgcma.models.avqa_head import AVQAHead
from stgcma.models.encoder import AudioVisualEncoder
from stgcma.models.grounding_checkpoint import load_grounding
from stgcma.tasks.answer_metrics import AnswerAccuracy
from stgcma.tasks.base import Metrics, Outputs, Task

MATCH_WEIGHT = 0.5
"""Weight of the match loss; the answer loss has weight 1."""


class AVQATask(Task):
    """Answers questions about ten seconds of a video. Every video is encoded once for all its questions."""

    reader: ClassVar[type[Reader]] = QuestionReader

    def build_head(self, encoder: AudioVisualEncoder) -> nn.Module:
        heads = self.config.answer_head.num_attention_heads
        width = encoder.output_dim if self.config.avqa_variant == "l" else self.config.answer_head.dim
        if width % heads:
            raise ConfigError(
                f"model.answer_head.num_attention_heads: {heads} must divide the head's width {width} "
                f"(variant {self.config.avqa_variant!r})."
            )
        head = AVQAHead(encoder.output_dim, self.config.avqa_variant, self.config.answer_head, encoder.plain_visual)
        if self.config.grounding_checkpoint is not None:
            load_grounding(head.grounding, self.config.grounding_checkpoint)
        return head

    def loss(self, outputs: Outputs, batch: AVBatch) -> Tensor:
        """``CE(answer) + 0.5 CE(match)``: means over ``Q`` questions and over their ``2 Q S`` (sound, frame) pairs.

        A question whose answer is not in the vocabulary has no answer loss. Without negatives there is no match loss.
        """
        targets = batch.targets
        assert isinstance(targets, QuestionTargets)
        total = answer_loss(outputs["logits"], targets)
        if "match_positive" in outputs:
            total = total + MATCH_WEIGHT * match_loss(outputs, targets)
        return total

    def per_clip(self, outputs: Outputs, batch: AVBatch) -> dict[str, dict[str, Tensor]]:
        """``<video>/<question id>`` -> ``correct []``, because the metric is a mean over questions."""
        targets = batch.targets
        assert isinstance(targets, QuestionTargets)
        correct = (outputs["logits"].argmax(-1).cpu() == targets.answers.cpu()).double()
        scores: dict[str, dict[str, Tensor]] = {}
        for row, (video, number) in enumerate(zip(targets.video_index.tolist(), targets.question_ids, strict=True)):
            name = f"{batch.clip_ids[video]}/{number}"
            while name in scores:  # the official files repeat some ids with another answer
                name += "'"
            scores[name] = {"correct": correct[row]}
        return scores

    def new_metrics(self, *, detailed: bool = False) -> Metrics:
        return AnswerAccuracy(detailed=detailed)


def answer_loss(logits: Tensor, targets: QuestionTargets) -> Tensor:
    """Sum of the cross-entropies of ``logits [Q, answers]``, divided by the number of questions of the step."""
    total = F.cross_entropy(logits.float(), targets.answers, ignore_index=-1, reduction="sum")
    if targets.loss_questions is not None:
        return total / targets.loss_questions
    return total / (targets.answers >= 0).sum().clamp_min(1)


def match_loss(outputs: Outputs, targets: QuestionTargets) -> Tensor:
    """Mean cross-entropy of the match logits, ``[Q, S, 2]`` each: class 1 for positives, class 0 for negatives."""
    positive, negative = outputs["match_positive"].float(), outputs["match_negative"].float()
    logits = torch.stack([positive, negative], dim=2).flatten(0, 2)
    labels = torch.tensor([1, 0], device=logits.device).repeat(len(logits) // 2)
    total = F.cross_entropy(logits, labels, reduction="sum")
    questions = targets.loss_questions if targets.loss_questions is not None else positive.shape[0]
    return total / (2 * positive.shape[1] * questions)
