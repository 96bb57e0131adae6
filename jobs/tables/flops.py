"""What a model costs: parameters, and floating point operations of one clip. No weights, no data.

The real model runs on the meta device, forward and backward. Counted are matrix products, convolutions and attention,
two operations per multiply-add; norms, softmax and activations are left out (the rule of torch's ``FlopCounterMode``).
Autograd decides what a backward pass computes: for a frozen layer its input gradient alone, for a trained one its
weight gradient too, nothing below the first trained parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import ModelConfig
from stgcma.data.batch import AVBatch, EventTargets, MaskTargets, QuestionTargets, Targets
from stgcma.data.question_text import MAX_WORDS
from stgcma.models.meta import MetaMode
from stgcma.models.parameters import ParameterCount, count_parameters
from stgcma.tasks import build_model, build_task
from stgcma.tasks.base import AudioVisualModel, Task


@dataclass(frozen=True)
class ClipFlops:
    """Operations for one clip."""

    forward: int
    """Evaluation: all segments, all masks, one question."""
    training: int
    """Forward and backward of a training step, with what the task adds to it (one mask; negative frames)."""


@dataclass(frozen=True)
class ModelCost:
    """Size and operations of one model."""

    parameters: ParameterCount
    flops: ClipFlops


def model_cost(task: str, config: ModelConfig) -> ModelCost:
    """Build a model on the meta device and count. Equal configurations are counted once in a process."""
    return _model_cost(task, replace(config, pretrained="none", grounding_checkpoint=None))


@lru_cache(maxsize=256)
def _model_cost(task_name: str, config: ModelConfig) -> ModelCost:
    task = build_task(task_name, config)
    with MetaMode():
        model = build_model(task, device="meta")
    return ModelCost(count_parameters(model), clip_flops(task, model, task.spec.num_segments))


def clip_flops(task: Task, model: AudioVisualModel, num_segments: int) -> ClipFlops:
    """Operations of one clip of ``num_segments`` segments; ``model`` is on the meta device."""
    evaluation, training = (_batch(task, model.encoder.spec, num_segments, training) for training in (False, True))
    with MetaMode() as counter:
        # The encoder costs the same in both modes, so one pass serves both.
        features = model.train().encoder(visual=training.frames, audio=training.fbank)
        encoder = counter.flops
        with torch.no_grad():
            model.head.eval()(features, evaluation)
        forward = counter.flops
        outputs = model.head.train()(features, training)
        trained = [value.sum() for value in outputs.values() if value.requires_grad]
        if trained:
            torch.stack(trained).sum().backward()
        return ClipFlops(forward=forward, training=encoder + counter.flops - forward)


def _batch(task: Task, spec: BackboneSpec, num_segments: int, training: bool) -> AVBatch:
    """One clip without content and what a head reads besides features."""
    size = spec.image_size
    with torch.device("meta"):
        frames = torch.empty(1, num_segments, 3, size, size)
        targets: Targets
        if task.spec.annotation == "masks":
            masked = torch.zeros(1 if training else num_segments, dtype=torch.int64)
            targets = MaskTargets(masks=torch.empty(1, len(masked), size, size), frame_index=masked)
        elif task.spec.annotation == "questions":
            one = torch.zeros(1, dtype=torch.int64)
            questions = torch.zeros(1, MAX_WORDS, dtype=torch.int64)
            negatives = torch.empty_like(frames) if training else None
            targets = QuestionTargets(video_index=one, questions=questions, answers=one, negatives=negatives)
        else:
            targets = EventTargets(labels=torch.zeros(1, num_segments, dtype=torch.int64))
        fbank = torch.empty(1, num_segments, *spec.audio_size)
    return AVBatch(clip_ids=("clip",), frames=frames, fbank=fbank, targets=targets)
