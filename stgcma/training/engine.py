"""The training and evaluation loops: plain torch over iterables of ``AVBatch``, for one worker or several.

Every step seeds the generator for dropout and stochastic depth with (seed, epoch, step, rank). No generator state is
stored, and a resumed run continues bit for bit on the same machine.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stgcma.config import ModelConfig, OptimConfig
from stgcma.data.batch import AVBatch
from stgcma.errors import ConfigError, RunFailedError
from stgcma.models.parameters import cast_frozen_matrices, trainable_parameters
from stgcma.tasks.base import AudioVisualModel, Metrics, Outputs, Task
from stgcma.training import distributed
from stgcma.training.optim import Schedule

logger = logging.getLogger(__name__)

AUTOCAST_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_device(name: str) -> torch.device:
    """``auto`` -> the GPU if there is one, otherwise the CPU. Other names are passed to ``torch.device``.

    Raises:
        ConfigError: If the name is a GPU but torch finds none.
    """
    available = torch.cuda.is_available()
    if name.startswith("cuda") and not available:
        raise ConfigError("Device 'cuda' was requested, but torch sees no GPU here. Use auto or cpu.")
    return torch.device(("cuda" if available else "cpu") if name == "auto" else name)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Device and type of the computation. Trained weights and optimiser state are always in fp32."""

    device: torch.device
    autocast_dtype: torch.dtype | None
    """Type under autocast; None: fp32 without autocast."""

    @classmethod
    def choose(cls, mode: str, device: torch.device | str) -> Precision:
        """The precision for ``OptimConfig.mixed_precision`` on a device. A CPU computes in fp32, and logs it."""
        device = torch.device(device)
        if mode != "off" and device.type != "cuda":
            logger.info("mixed_precision: %s applies to a GPU; this run computes in fp32 on %s.", mode, device.type)
            mode = "off"
        return cls(device=device, autocast_dtype=AUTOCAST_TYPES.get(mode))

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for forward passes."""
        return torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def new_scaler(self) -> torch.amp.GradScaler:
        """A loss scaler for fp16. It does nothing for other types."""
        return torch.amp.GradScaler(self.device.type, enabled=self.autocast_dtype is torch.float16)


def place_model(model: AudioVisualModel, config: ModelConfig, precision: Precision) -> AudioVisualModel:
    """Move the model to the device. Under bf16 autocast, also store its frozen matrices as ``config.frozen_dtype``."""
    model = model.to(precision.device)
    if config.frozen_dtype == "bfloat16" and precision.autocast_dtype is torch.bfloat16:
        cast_frozen_matrices(model, torch.bfloat16)
    return model


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """The result of one optimiser step, the same on all workers except ``num_clips``."""

    epoch: int
    """Counted from 0."""
    step: int
    """Step in the epoch, counted from 0."""
    loss: float
    """Mean over the global batch."""
    num_clips: int
    """Clips in the part of the batch of this worker."""
    learning_rates: dict[str, float]
    """Group -> learning rate."""


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """A 63-bit seed for one step of one worker. The seeds of neighbouring steps are unrelated."""
    text = f"{seed}/{epoch}/{step}/{rank}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def train_one_epoch(
    model: nn.Module,
    task: Task,
    batches: Iterable[AVBatch],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    config: OptimConfig,
    epoch: int,
    steps_per_epoch: int,
    precision: Precision,
    scaler: torch.amp.GradScaler,
    start_step: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
) -> None:
    """Train over the batches of one epoch, with the whole model in train mode.

    Args:
        model: The model on ``precision.device``.
        task: Supplies the loss.
        batches: Batches of this worker from ``start_step`` on, on the CPU.
        optimizer: From ``build_optimizer``.
        schedule: Learning rates by step of the run.
        config: Supplies seed and gradient clipping.
        epoch: Counted from 0.
        steps_per_epoch: Optimiser steps of a full epoch.
        precision: Device and autocast type.
        scaler: From ``precision.new_scaler``. Its state belongs to the run.
        start_step: First step to run. A resumed epoch has done the steps before.
        on_step: Called after every optimiser step. Weights and optimiser state then belong together, so a checkpoint
            can be written.

    Raises:
        RunFailedError: On all workers at once, if the loss is not finite.
    """
    model.train()
    parameters = list(trainable_parameters(model).values())
    for step, batch in enumerate(batches, start=start_step):
        rates = schedule.apply(optimizer, epoch * steps_per_epoch + step)
        torch.manual_seed(step_seed(config.seed, epoch, step, distributed.rank()))
        optimizer.zero_grad(set_to_none=True)
        batch = batch.to(precision.device)
        with precision.autocast():
            loss = task.loss(model(batch), batch)
        scaler.scale(loss).backward()
        mean_loss = loss.detach().float()
        distributed.average_([mean_loss.view(1), *(p.grad for p in parameters if p.grad is not None)])
        value = mean_loss.item()
        if not math.isfinite(value):
            raise RunFailedError(
                f"The training loss is {value} at epoch {epoch + 1}, step {step + 1} of {steps_per_epoch} "
                f"(learning rates {rates}, clips {', '.join(batch.clip_ids[:4])}). "
                "Lower optim.learning_rate, set optim.grad_clip_norm, or set optim.mixed_precision: off."
            )
        if config.grad_clip_norm is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, config.grad_clip_norm)
        scaler.step(optimizer)
        scaler.update()
        if on_step is not None:
            on_step(StepReport(epoch=epoch, step=step, loss=value, num_clips=len(batch), learning_rates=rates))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation of one split, merged over the workers."""

    metrics: Metrics
    """Sums over the split; ``metrics.compute()`` gives the values."""
    per_clip: dict[str, dict[str, Tensor]]
    """Clip id -> name -> scores of the clip, e.g. ``correct [S]``. Empty unless detailed."""
    num_clips: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    batches: Iterable[AVBatch],
    *,
    precision: Precision,
    detailed: bool = False,
    on_batch: Callable[[AVBatch, Outputs], None] | None = None,
) -> Evaluation:
    """Evaluate the share of this worker of a split in eval mode, and merge the sums of all workers.

    Args:
        model: The model on ``precision.device``. Its train or eval mode is restored.
        task: Supplies the metrics.
        batches: Batches of this worker, on the CPU.
        precision: As in training, because the reference evaluates under autocast too.
        detailed: Also collect detailed metrics and the scores of every clip.
        on_batch: Called with every batch and its outputs, on the CPU.
    """
    was_training = model.training
    model.eval()
    metrics = task.new_metrics(detailed=detailed)
    per_clip: dict[str, dict[str, Tensor]] = {}
    num_clips = 0
    for batch in batches:
        with precision.autocast():
            outputs = model(batch.to(precision.device))
        outputs = {
            name: value.float().cpu() if value.is_floating_point() else value.cpu() for name, value in outputs.items()
        }
        metrics.update(outputs, batch)
        num_clips += len(batch)
        if detailed:
            per_clip.update(task.per_clip(outputs, batch))
        if on_batch is not None:
            on_batch(batch, outputs)
    model.train(was_training)
    everyone = task.new_metrics(detailed=detailed)
    for sums in distributed.gather(metrics.sums):
        everyone.merge(sums)
    merged: dict[str, dict[str, Tensor]] = {}
    for part in distributed.gather(per_clip):
        merged.update(part)
    return Evaluation(
        metrics=everyone,
        per_clip=dict(sorted(merged.items())),
        num_clips=sum(distributed.gather(num_clips)),
    )


class WeightAverage:
    """Mean of the trained state over several epochs (method section 7)."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, Tensor] = {}
        """Name of a parameter or buffer -> sum, on the CPU. Integer buffers keep their last value."""

    def add(self, state: dict[str, Tensor]) -> None:
        """Add the weights of one epoch."""
        for name, value in state.items():
            value = value.detach().cpu()
            if value.is_floating_point() and name in self.sums:
                self.sums[name] = self.sums[name] + value
            else:
                self.sums[name] = value.clone()
        self.count += 1

    def mean(self) -> dict[str, Tensor]:
        """The averaged state, for ``load_trainable_state_dict``."""
        return {name: value / self.count if value.is_floating_point() else value for name, value in self.sums.items()}
