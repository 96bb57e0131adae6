"""The question-answering head: grounding, match branch and question-guided fusion (method section 5).

The encoder runs once per video. Every question then reads the ``S`` audio and visual features of its video.

Shapes: ``B`` videos, ``Q`` questions, ``S`` segments, ``P`` visual tokens, ``C`` encoder width, ``d`` working width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgcma.config import AnswerHeadConfig, AVQAVariant
from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.errors import ShardMismatchError
from stgcma.models.adapters import TrainableModule
from stgcma.models.encoder import AVFeatures
from stgcma.models.grounding import Grounding
from stgcma.models.question import QuestionEncoder


class QuestionAttention(TrainableModule):
    """Attention of the question over the segments of one modality, a residual feed-forward step and LayerNorm.

    The question itself is not added to the result, as published.
    """

    role: str = "avqa_head"

    def __init__(self, dim: int, config: AnswerHeadConfig) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(
            dim, config.num_attention_heads, dropout=config.dropout, batch_first=True
        )
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        for layer in (self.attention.out_proj, self.inner, self.outer):
            nn.init.trunc_normal_(layer.weight, std=config.init_std)
            nn.init.zeros_(layer.bias)

    def forward(self, question: Tensor, segments: Tensor) -> Tensor:
        """``question [Q, d]``, ``segments [Q, S, d]`` -> ``[Q, d]``."""
        attended, _ = self.attention(question.unsqueeze(1), segments, segments, need_weights=False)
        attended = attended.squeeze(1)
        attended = attended + self.dropout(self.outer(self.dropout(F.relu(self.inner(attended)))))
        return self.norm(attended)


class GroundedHead(TrainableModule):
    """Grounding and match branch on encoder features, shared by answering and grounding pre-training.

    The features of a branch that does not run are zeros, so single-modality baselines have the same head. Their sound
    and frames cannot be matched, so there are no match logits.

    Args:
        grounding: The grounding layers.
        plain_visual: Frames ``[N, 3, H, W]`` -> tokens ``[N, h, w, C]`` of the frozen backbone, for the negatives.
    """

    role: str = "avqa_head"

    def __init__(self, grounding: Grounding, plain_visual: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.grounding = grounding
        self.plain_visual = plain_visual

    def ground(self, features: AVFeatures) -> tuple[Tensor, Tensor]:
        """Audio feature and sound-guided visual feature of every segment of every video, ``[B, S, d]`` each."""
        if "visual" in features.tokens:
            tokens = features.tokens["visual"].flatten(2, -2)
            pooled = features.pooled["audio"] if "audio" in features.pooled else torch.zeros_like(tokens[:, :, 0])
        else:
            pooled = features.pooled["audio"]
            tokens = torch.zeros_like(pooled.unsqueeze(2))
        audio = self.grounding.hear(pooled)
        return audio, self.grounding.look(self.grounding.visual_projection(tokens), audio)

    def match(self, features: AVFeatures, audio: Tensor, visual: Tensor, batch: AVBatch) -> dict[str, Tensor]:
        """Match logits of every question and segment.

        Args:
            features: Encoder features.
            audio: ``[B, S, d]``, from ``ground``.
            visual: ``[B, S, d]``, from ``ground``.
            batch: Its targets hold or name the negatives.

        Returns:
            ``match_positive`` and ``match_negative``, ``[Q, S, 2]``; empty without negatives or with one branch.
        """
        targets = batch.targets
        assert isinstance(targets, QuestionTargets)
        negatives = self._negative_tokens(batch, targets) if len(features.tokens) == 2 else None
        if negatives is None:
            return {}
        asked = targets.video_index
        return {
            "match_positive": self.grounding.match(audio, visual)[asked],
            "match_negative": self.grounding.match(audio[asked], self.grounding.look(negatives, audio[asked])),
        }

    def _negative_tokens(self, batch: AVBatch, targets: QuestionTargets) -> Tensor | None:
        """Projected tokens ``[Q, S, P, d]`` of the negative frames; None if there are no negatives."""
        project = self.grounding.visual_projection
        if targets.negatives is not None:
            tokens = self.plain_visual(targets.negatives.flatten(0, 1)).flatten(1, -2)
            return project(tokens).unflatten(0, targets.negatives.shape[:2])
        if targets.negative_index is not None and batch.frames is not None:
            tokens = self.plain_visual(batch.frames.flatten(0, 1)).flatten(1, -2)
            video, second = targets.negative_index.unbind(-1)
            return project(tokens).unflatten(0, batch.frames.shape[:2])[video, second]
        return None


class MatchHead(GroundedHead):
    """The match branch alone, for grounding pre-training."""

    def forward(self, features: AVFeatures, batch: AVBatch) -> dict[str, Tensor]:
        """``match_positive`` and ``match_negative``, ``[Q, S, 2]``."""
        return self.match(features, *self.ground(features), batch)


class AVQAHead(GroundedHead):
    """Encoder features and questions -> answer logits, and match logits if there are negatives.

    Args:
        feature_dim: ``C``.
        variant: The published head to build; see ``Grounding``.
        config: Widths and vocabulary sizes.
        plain_visual: As in ``GroundedHead``.
    """

    def __init__(
        self,
        feature_dim: int,
        variant: AVQAVariant,
        config: AnswerHeadConfig,
        plain_visual: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(Grounding(feature_dim, variant, config), plain_visual)
        self.config = config
        dim = self.grounding.dim
        self.question = QuestionEncoder(config.num_words, dim, config.init_std, remembers_words=config.remembers_words)
        self.ask_visual = QuestionAttention(dim, config)
        self.ask_audio = QuestionAttention(dim, config)
        self.fusion = nn.Linear(2 * dim, dim)
        self.answer = nn.Linear(dim, config.num_answers)
        for layer in (self.fusion, self.answer):
            nn.init.trunc_normal_(layer.weight, std=config.init_std)
            nn.init.zeros_(layer.bias)

    def forward(self, features: AVFeatures, batch: AVBatch) -> dict[str, Tensor]:
        """Answer every question of the batch.

        Returns:
            ``logits [Q, answers]``; with negatives also ``match_positive`` and ``match_negative``, ``[Q, S, 2]``.

        Raises:
            ShardMismatchError: If the data has more words or answers than the head.
        """
        targets = batch.targets
        assert isinstance(targets, QuestionTargets)
        self._check_vocabulary(targets)
        audio, visual = self.ground(features)
        asked = targets.video_index
        logits = self.fuse(self.question(targets.questions), audio[asked], visual[asked])
        return {"logits": logits, **self.match(features, audio, visual, batch)}

    def fuse(self, question: Tensor, audio: Tensor, visual: Tensor) -> Tensor:
        """Answer logits ``[Q, answers]`` (step 5).

        Args:
            question: ``[Q, d]``.
            audio: ``[Q, S, d]``, features of the video of every question.
            visual: ``[Q, S, d]``, likewise.
        """
        heard = self.ask_audio(question, audio) + audio.mean(dim=1)
        seen = self.ask_visual(question, visual) + visual.mean(dim=1)
        fused = self.fusion(torch.tanh(torch.cat([heard, seen], dim=-1)))
        return self.answer(torch.tanh(fused * question))

    def _check_vocabulary(self, targets: QuestionTargets) -> None:
        self.question.check_vocabulary(targets.num_words)
        if targets.num_answers > self.config.num_answers:
            raise ShardMismatchError(
                f"The data has {targets.num_answers} answers, but the model has {self.config.num_answers} classes. "
                f"Set model.answer_head.num_answers: {targets.num_answers}."
            )
