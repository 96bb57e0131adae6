"""A batch: the tensors of both modalities and the targets of one task.

Shapes: ``B`` clips, ``S`` segments, ``K`` frames with a mask, ``Q`` questions, ``H W`` pixels, ``T F`` fbank.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EventTargets:
    """Targets of AVE."""

    labels: Tensor
    """``[B, S]`` int64: class of every segment. The last class is background."""


@dataclass(frozen=True, kw_only=True)
class MaskTargets:
    """Targets of AVSBench."""

    masks: Tensor
    """``[B, K, H, W]`` float {0, 1}."""
    frame_index: Tensor
    """``[K]`` int64: frames that have a mask."""
    categories: tuple[str, ...] = ()
    """Category of every clip, for the table per category."""


@dataclass(frozen=True, kw_only=True)
class QuestionTargets:
    """Targets of MUSIC-AVQA: ``Q`` questions about the ``B`` videos of the batch."""

    video_index: Tensor
    """``[Q]`` int64: video of every question, an index into the batch."""
    questions: Tensor
    """``[Q, 14]`` int64 word ids."""
    answers: Tensor
    """``[Q]`` int64; -1 if the answer is not in the vocabulary."""
    negatives: Tensor | None = None
    """``[Q, S, 3, H, W]``: frames of other videos."""
    negative_index: Tensor | None = None
    """``[Q, S, 2]`` int64 (video, segment) into the batch, if the negatives are frames of the batch."""
    types: tuple[tuple[str, str], ...] = ()
    """Type of every question, e.g. ``("Audio", "Counting")``."""
    question_ids: tuple[int, ...] = ()
    num_words: int = 0
    """Size of the question vocabulary of the data. The model checks that its embedding covers it."""
    num_answers: int = 0
    """Number of answers in the data. The model checks that it has a class for each."""
    loss_questions: float | None = None
    """Divisor of the summed losses: the questions of the whole step divided by the number of workers. Averaging the
    gradients over the workers then equals one worker with all questions. None: divide by the questions of this
    batch."""


Targets = EventTargets | MaskTargets | QuestionTargets


@dataclass(frozen=True, kw_only=True)
class AVBatch:
    """``B`` clips. A modality that the model does not read may be None.

    Raises:
        ValueError: If a tensor has another rank or another number of clips.
    """

    clip_ids: tuple[str, ...]
    frames: Tensor | None
    """``[B, S, 3, H, W]`` float32, normalised."""
    fbank: Tensor | None
    """``[B, S, T, F]`` float32, normalised."""
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
        """A copy of the batch with every tensor on ``device``."""
        targets = self.targets
        if targets is not None:
            moved: dict[str, Any] = {
                f.name: value.to(device, non_blocking=True)
                for f in fields(targets)
                if isinstance(value := getattr(targets, f.name), Tensor)
            }
            targets = replace(targets, **moved)
        frames = None if self.frames is None else self.frames.to(device, non_blocking=True)
        fbank = None if self.fbank is None else self.fbank.to(device, non_blocking=True)
        return replace(self, frames=frames, fbank=fbank, targets=targets)
