"""Counts the parameters of a model and its floating point operations for one clip, without weights or data.

The real model runs forward and backward on the meta device. Matrix products, convolutions and attention count with two
operations per multiply-add; norms, softmax and activations do not count, as in torch's ``FlopCounterMode``. The
backward pass counts what autograd computes: the input gradient of a frozen layer, the weight gradient of a trained one
as well, and nothing below the first trained parameter.
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
    """Floating point operations for one clip."""

    forward: int
    """Forward pass in evaluation, with all segments, all masks or one question."""
    training: int
    """Forward and backward pass in training, including what the task adds (one mask, negative frames)."""


@dataclass(frozen=True)
class ModelCost:
    """Size and operations of one model."""

    parameters: ParameterCount
    flops: ClipFlops


def model_cost(task: str, config: ModelConfig) -> ModelCost:
    """Build a model on the meta device and count its cost. A process counts each configuration once.

    Args:
        task: A name in ``stgcma.tasks.TASKS``.
        config: The model. Its weights are not read.

    Raises:
        ConfigError: If the model does not fit the task.
    """
    return _model_cost(task, replace(config, pretrained="none", grounding_checkpoint=None))


@lru_cache(maxsize=256)
def _model_cost(task_name: str, config: ModelConfig) -> ModelCost:
    task = build_task(task_name, config)
    with MetaMode():
        model = build_model(task, device="meta")
    return ModelCost(count_parameters(model), clip_flops(task, model, task.spec.num_segments))


def clip_flops(task: Task, model: AudioVisualModel, num_segments: int) -> ClipFlops:
    """Count the operations for one clip.

    Args:
        task: The task.
        model: The model of the task, on the meta device.
        num_segments: ``S``, the segments of the clip.
    """
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
    """A batch of one empty clip, with the targets that the head reads."""
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
