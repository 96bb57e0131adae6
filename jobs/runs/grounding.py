"""Pretrains the grounding layers of question answering and writes them to a file for later runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobs.runs.config import RunConfig
from jobs.runs.folder import BEST, RunFolder
from jobs.runs.session import RunResult, train_run
from stgcma.errors import ConfigError
from stgcma.models.adaptations import NoAdaptation
from stgcma.tasks import task_spec
from stgcma.tensor_file import encode_tensors
from stgcma.training.trained_model import decode_model

TASK = "grounding"
"""The task of the pretraining."""
GROUNDING = "grounding.safetensors"
"""File in the run folder with the layers of the selected epoch, projections included."""
_PREFIX = "head.grounding."


def pretrain_grounding(config: RunConfig, **options: Any) -> tuple[RunResult, str]:
    """Train the match task and write its grounding layers.

    Args:
        config: A run of task ``grounding``, or of a task that answers questions. Of the latter, backbone and variant
            are kept, and the adaptation is replaced by the plain frozen backbone.
        options: Passed to ``train_run``.

    Returns:
        The result of the run, and the path or URI of the file for ``model.grounding_checkpoint``.

    Raises:
        ConfigError: If the run has another task, and as ``train_run``.
    """
    result = train_run(_as_grounding(config), **options)
    folder = RunFolder(result.run)
    if not folder.exists(GROUNDING):
        tensors, _ = decode_model(folder.read(BEST), f"{folder.uri}/{BEST}")
        layers = {
            name.removeprefix(_PREFIX): value.contiguous()
            for name, value in tensors.items()
            if name.startswith(_PREFIX)
        }
        folder.write(GROUNDING, encode_tensors(layers, {}))
    return result, f"{folder.uri}/{GROUNDING}"


def _as_grounding(config: RunConfig) -> RunConfig:
    if config.task == TASK:
        return config
    if task_spec(config.task).unit != "questions":
        raise ConfigError(
            f"pretrain-grounding needs a recipe of task {TASK} or of a task that answers questions, got task "
            f"{config.task}. See jobs/recipes/grounding_swin_large_l.yaml."
        )
    plain = NoAdaptation(branches=config.model.adaptation.branches)
    model = replace(config.model, adaptation=plain, grounding_checkpoint=None)
    data = replace(config.data, negatives="stored", questions_per_video=None)
    return replace(config, name=f"{config.name}-grounding", task=TASK, model=model, data=data)
