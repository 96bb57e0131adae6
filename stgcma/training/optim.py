"""Parameter groups, Adam, and the learning rate as a function of the optimiser step (method section 7)."""

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
    """Every trained parameter by group and name: the head, the gates of CAIM, and all else that adapts the encoder."""
    head = {id(parameter) for parameter in model.head.parameters()}
    roles = parameter_roles(model)
    groups: dict[str, dict[str, nn.Parameter]] = {group: {} for group in GROUPS}
    for name, parameter in trainable_parameters(model).items():
        group = "head" if id(parameter) in head else "gates" if roles[name] == "gates" else "adapters"
        groups[group][name] = parameter
    return groups


def base_learning_rates(config: OptimConfig) -> dict[str, float]:
    """Highest learning rate of each group; heads and gates follow the adapters unless configured."""
    default = config.learning_rate
    return {
        "adapters": default,
        "gates": default if config.gate_learning_rate is None else config.gate_learning_rate,
        "head": default if config.head_learning_rate is None else config.head_learning_rate,
    }


def build_optimizer(model: AudioVisualModel, config: OptimConfig) -> torch.optim.Adam:
    """Adam with coupled L2 over everything that is trained. Groups without parameters are left out.

    Each group carries its ``name``; the learning rates are set by ``Schedule.apply`` before every step. The update of a
    group is one fused kernel: one by one, its hundred small tensors cost up to a tenth of a small model's step.
    """
    rates = base_learning_rates(config)
    groups = [
        {"name": group, "params": list(members.values()), "lr": rates[group]}
        for group, members in parameter_groups(model).items()
        if members
    ]
    return torch.optim.Adam(groups, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True)


def learning_rate_at(step: int, *, base: float, minimum: float, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up from 0 to ``base`` inclusive, then a half cosine towards ``minimum``, which it never reaches.

    The last warm-up step and the first cosine step both have ``base``, as in the reference.

    Args:
        step: Optimiser step since the start of the run, from 0.
        base: Highest rate of the group.
        minimum: Where the cosine would end one step after the last.
        warmup_steps: Steps of the linear part.
        total_steps: Steps of the whole run.
    """
    if step < warmup_steps:
        return base * (step / (warmup_steps - 1)) if warmup_steps > 1 else 0.0
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return minimum + 0.5 * (base - minimum) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rates of a whole run: stateless, so a resumed run needs only its step."""

    base: dict[str, float]
    """Highest rate by group."""
    minimum: float
    warmup_steps: int
    total_steps: int

    @classmethod
    def of(cls, config: OptimConfig, steps_per_epoch: int) -> Schedule:
        return cls(
            base=base_learning_rates(config),
            minimum=config.min_learning_rate,
            warmup_steps=int(config.warmup_epochs * steps_per_epoch),
            total_steps=config.epochs * steps_per_epoch,
        )

    def at(self, step: int) -> dict[str, float]:
        """Learning rate of every group at an optimiser step."""
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
        """Set the rates of a step; returns those of the groups the optimiser has."""
        rates = self.at(step)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        return {group["name"]: group["lr"] for group in optimizer.param_groups}
