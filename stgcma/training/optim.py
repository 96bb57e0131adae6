"""Parameter groups, Adam and the schedule of the learning rate (method section 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from stgcma.config import OptimConfig
from stgcma.models.parameters import parameter_roles, trainable_parameters
from stgcma.tasks.base import AudioVisualModel

GROUPS = ("adapters", "gates", "head")
"""Parameter groups in the order of the optimiser; each has its own base learning rate."""


def parameter_groups(model: AudioVisualModel) -> dict[str, dict[str, nn.Parameter]]:
    """Group -> name -> trained parameter: the head, the gates of CAIM, and all other trained parameters of the
    encoder."""
    head = {id(parameter) for parameter in model.head.parameters()}
    roles = parameter_roles(model)
    groups: dict[str, dict[str, nn.Parameter]] = {group: {} for group in GROUPS}
    for name, parameter in trainable_parameters(model).items():
        group = "head" if id(parameter) in head else "gates" if roles[name] == "gates" else "adapters"
        groups[group][name] = parameter
    return groups


def base_learning_rates(config: OptimConfig) -> dict[str, float]:
    """Highest learning rate of each group. Head and gates have that of the adapters unless they have their own."""
    default = config.learning_rate
    return {
        "adapters": default,
        "gates": default if config.gate_learning_rate is None else config.gate_learning_rate,
        "head": default if config.head_learning_rate is None else config.head_learning_rate,
    }


def build_optimizer(model: AudioVisualModel, config: OptimConfig) -> torch.optim.Adam:
    """Adam with L2 penalty over all trained parameters. Groups without parameters are left out.

    Each group has its ``name``; ``Schedule.apply`` sets the learning rates before every step. A fused kernel updates a
    whole group. Updating its hundred small tensors one by one would take up to a tenth of the step of a small model.
    """
    rates = base_learning_rates(config)
    groups = [
        {"name": group, "params": list(members.values()), "lr": rates[group]}
        for group, members in parameter_groups(model).items()
        if members
    ]
    return torch.optim.Adam(groups, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True)


def learning_rate_at(step: int, *, base: float, minimum: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up from 0 to ``base``, then half a cosine down to ``minimum``.

    The last step of the warm-up and the first step of the cosine both have ``base``, as in the reference. The last step
    of the run is still above ``minimum``.

    Args:
        step: Optimiser step since the start of the run, from 0.
        base: Highest rate of the group.
        minimum: End of the cosine, one step after the last.
        warmup_steps: Steps of the warm-up.
        total_steps: Steps of the whole run.
    """
    if step < warmup_steps:
        return base * (step / (warmup_steps - 1)) if warmup_steps > 1 else 0.0
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return minimum + 0.5 * (base - minimum) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rates of a whole run. It has no state, so a resumed run needs only its step."""

    base: dict[str, float]
    """Group -> highest rate."""
    minimum: float
    warmup_steps: int
    total_steps: int

    @classmethod
    def of(cls, config: OptimConfig, steps_per_epoch: int) -> Schedule:
        """The schedule of a run configuration."""
        return cls(
            base=base_learning_rates(config),
            minimum=config.min_learning_rate,
            warmup_steps=int(config.warmup_epochs * steps_per_epoch),
            total_steps=config.epochs * steps_per_epoch,
        )

    def at(self, step: int) -> dict[str, float]:
        """Group -> learning rate at an optimiser step."""
        return {
            group: learning_rate_at(
                step,
                base=base,
                minimum=self.minimum,
                warmup_steps=self.warmup_steps,
                total_steps=self.total_steps,
            )
            for group, base in self.base.items()
        }

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
        """Set the learning rates of a step, and return those of the groups that the optimiser has."""
        rates = self.at(step)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        return {group["name"]: group["lr"] for group in optimizer.param_groups}
