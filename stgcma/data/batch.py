"""What a training step receives: tensors of both modalities and the target of one task."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EventTargets:
    """AVE: ``labels [B, S]`` int64, class of each second, the last class being background."""

    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class MaskTargets:
    """AVSBench: ``masks [B, K, H, W]`` float {0, 1} of the frames ``frame_index [K]`` (int64).

    ``categories``: name per clip, for the per-category table.
    """

    masks: Tensor
    frame_index: Tensor
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class QuestionTargets:
    """MUSIC-AVQA: ``Q`` questions over the ``B`` videos of the batch.

    ``video_index [Q]`` int64 into the batch, ``questions [Q, 14]`` int64 word ids, ``answers [Q]`` int64 (-1: not in
    the vocabulary), ``negatives [Q, S, 3, H, W]`` frames of other videos or None, ``negative_index [Q, S, 2]``
    (video, segment) into the batch when negatives are drawn from it, ``types``: ``("Audio", "Counting")`` per question.
    """

    video_index: Tensor
    questions: Tensor
    answers: Tensor
    negatives: Tensor | None = None
    negative_index: Tensor | None = None
    types: tuple[tuple[str, str], ...] = ()
    question_ids: tuple[int, ...] = ()
    num_words: int = 0
    """Size of the data's question vocabulary, so that the model can check that its embedding covers it."""
    num_answers: int = 0
    loss_questions: float | None = None
    """What the summed losses are divided by: the questions of the whole step over the number of workers. Averaging
    gradients over workers then equals one worker with all questions. None: the answerable questions of this batch."""


Targets = EventTargets | MaskTargets | QuestionTargets


@dataclass(frozen=True, kw_only=True)
class AVBatch:
    """``B`` clips. ``frames [B, S, 3, H, W]`` and ``fbank [B, S, T, F]``, both normalised float32.

    A modality that the model does not read may be None.
    """

    clip_ids: tuple[str, ...]
    frames: Tensor | None
    fbank: Tensor | None
    targets: Targets | None = None

    def __post_init__(self) -> None:
        for name, rank in (("frames", 5), ("fbank", 4)):
            value = getattr(self, name)
            if value is not None and (value.ndim != rank or value.shape[0] != len(self.clip_ids)):
                raise ValueError(
                    f"AVBatch.{name} needs rank {rank} with {len(self.clip_ids)} clips first, got {list(value.shape)}."
                )

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __repr__(self) -> str:
        shapes = {name: None if (v := getattr(self, name)) is None else list(v.shape) for name in ("frames", "fbank")}
        return f"AVBatch({len(self)} clips, {shapes}, {type(self.targets).__name__})"

    def to(self, device: torch.device | str) -> AVBatch:
        """The same batch with every tensor on ``device``."""
        move = {}
        for name in ("frames", "fbank"):
            value = getattr(self, name)
            move[name] = value if value is None else value.to(device, non_blocking=True)
        targets = self.targets
        if targets is not None:
            moved = {
                f.name: value.to(device, non_blocking=True)
                for f in fields(targets)
                if isinstance(value := getattr(targets, f.name), Tensor)
            }
            targets = replace(targets, **moved)
        return replace(self, targets=targets, **move)
