"""The registry of tasks. A new task is one file with its ``Task`` class and one entry in ``TASKS``.

This file does not import torch. The records hold plain values, and their classes are imported when they are used.
"""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import BRANCHES, ModelConfig
from stgcma.errors import ConfigError
from stgcma.tasks.question_types import QUESTION_TYPES, TYPE_NAMES
from stgcma.tasks.requirements import require_model
from stgcma.tasks.spec import Metric, TaskSpec

if TYPE_CHECKING:
    import torch

    from stgcma.tasks.base import AudioVisualModel, Task

__all__ = ["TASKS", "Metric", "TaskSpec", "build_model", "build_task", "task_spec"]

TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            name="ave",
            implementation="stgcma.tasks.ave:AVETask",
            annotation="events",
            num_segments=10,
            metrics=(Metric(name="accuracy", clip_score="correct"),),
            selection_metric="accuracy",
            class_metric="accuracy/class_{index}",
            predicts_class_names=True,
        ),
        TaskSpec(
            name="avs",
            implementation="stgcma.tasks.avs:AVSTask",
            annotation="masks",
            num_segments=5,
            metrics=(
                Metric(name="miou", title="mIoU", clip_score="iou"),
                Metric(name="fscore", title="F-score"),
                Metric(name="iou_pooled", title="IoU, pooled"),
            ),
            selection_metric="miou",
            class_metric="category/{name}/miou",
            fbank="avs",
            requires=frozenset({"stage_maps"}),
            branches=BRANCHES,
            gallery="jobs.runs.mask_gallery:MaskGallery",
        ),
        TaskSpec(
            name="avqa",
            implementation="stgcma.tasks.avqa:AVQATask",
            annotation="questions",
            num_segments=10,
            metrics=(
                Metric(name="overall", clip_score="correct"),
                *(Metric(name=name) for name in (*QUESTION_TYPES, *TYPE_NAMES)),
            ),
            selection_metric="overall",
            fbank="avqa",
            requires=frozenset({"stage_maps", "plain_visual"}),
            unit="questions",
        ),
        TaskSpec(
            name="grounding",
            implementation="stgcma.tasks.grounding:GroundingTask",
            annotation="questions",
            num_segments=10,
            metrics=(Metric(name="match_accuracy"),),
            selection_metric="match_accuracy",
            fbank="avqa",
            requires=frozenset({"stage_maps", "plain_visual"}),
            branches=BRANCHES,
            unit="videos",
        ),
    )
}


def task_spec(name: str) -> TaskSpec:
    """The record of a task.

    Raises:
        ConfigError: If the name is unknown. The message lists the valid names.
    """
    if name not in TASKS:
        raise ConfigError(f"Unknown task {name!r}; choose one of: {', '.join(TASKS)}.")
    return TASKS[name]


def build_task(name: str, config: ModelConfig) -> Task:
    """A task for one model configuration.

    Raises:
        ConfigError: If the name is unknown. The message lists the valid names.
    """
    spec = task_spec(name)
    return pkgutil.resolve_name(spec.implementation)(spec, config)


def build_model(
    task: Task, *, device: torch.device | str = "cpu", spec: BackboneSpec | None = None, num_segments: int | None = None
) -> AudioVisualModel:
    """Build the model of a task: encoder with pretrained weights, and head.

    Args:
        task: From ``build_task(name, config)``.
        device: ``"meta"`` needs no weights and no memory.
        spec: Geometry to use instead of the registered backbone (tests, golden files).
        num_segments: Number of segments to use instead of that of the task (golden files).

    Raises:
        ConfigError: If the model cannot do the task, or its settings do not fit each other.
        CheckpointError: If the pretrained weights cannot be loaded.
    """
    import torch

    from stgcma.models.backbones import backbone_spec
    from stgcma.models.encoder import build_encoder
    from stgcma.tasks.base import AudioVisualModel

    require_model(task.spec, task.config, spec or backbone_spec(task.config.backbone))
    num_segments = num_segments or task.spec.num_segments
    encoder = build_encoder(task.config, num_segments=num_segments, device=device, spec=spec)
    with torch.device(device):
        return AudioVisualModel(encoder, task.build_head(encoder))
