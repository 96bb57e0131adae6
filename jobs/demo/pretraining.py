"""Shared code of the pretraining of the demo's two frozen backbones: labels, training loop and command.

The stills come from the renderer of the synthetic clips (``pipelines/synthetic/render.py``). A backbone never sees
clips, sound, motion or the labels of clips. The module of each backbone describes what it learns. The read-outs of
pretraining are not stored.
"""

from __future__ import annotations

import argparse
import math
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import stgcma
from pipelines.synthetic.scenes import SHAPES, SceneObject
from stgcma.backbone_spec import IMAGENET_MEAN, IMAGENET_STD
from stgcma.config import ModelConfig
from stgcma.models.adaptations import NoAdaptation
from stgcma.models.backbones import backbone_spec, build_backbone
from stgcma.models.backbones.base import Backbone

NUM_KINDS = 2 * len(SHAPES)
"""A kind is a shape with a size, small or big; see ``kind_of``."""
NO_OBJECT = NUM_KINDS
MIN_COVER = 0.12
"""A patch or cell shows the object that covers most of it, if this object covers at least this fraction."""
NOISE_LEVELS = 3.0
"""Standard deviation of the noise added to training pixels (0 to 255), which imitates video compression."""


class Pretraining(nn.Module, ABC):
    """A backbone with the read-outs of its pretraining. The class variables are those of the shipped weights.

    ``Any`` stands for the stills of a subclass: a dataclass whose ``pixels`` are uint8 with one still per entry.
    """

    backbone: ClassVar[str]
    num_stills: ClassVar[int]
    epochs: ClassVar[int]
    learning_rate: ClassVar[float]
    """Learning rate after the warm-up."""

    @staticmethod
    @abstractmethod
    def make_stills(count: int, seed: int) -> Any:
        """Render pictures with their labels."""

    @abstractmethod
    def losses(self, stills: Any, rows: Tensor, *, is_flipped: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses on the stills ``rows [n]``: the one to minimise, and those to print by name."""

    @abstractmethod
    def accuracies(self, stills: Any) -> dict[str, float]:
        """Name of a read-out -> accuracy as a fraction."""

    @abstractmethod
    def stored_state(self) -> dict[str, Tensor]:
        """The tensors of the backbone that are stored in the weight file."""


P = TypeVar("P", bound=Pretraining)


def fresh_backbone(name: str) -> Backbone:
    """The backbone with random weights and without stochastic depth."""
    config = ModelConfig(backbone=name, pretrained="none", adaptation=NoAdaptation(), drop_path_rate=0.0)
    return build_backbone(backbone_spec(name), config)


def kind_of(item: SceneObject) -> int:
    """Shape and size of an object as one number below ``NUM_KINDS``."""
    return 2 * item.shape + item.is_big


def normalise(pixels: Tensor, noise: float = 0.0) -> Tensor:
    """Normalise pixels for the backbones, after adding Gaussian noise.

    Args:
        pixels: ``[N, 3, H, W]`` uint8.
        noise: Standard deviation in units of the pixels (0 to 255).

    Returns:
        ``[N, 3, H, W]`` float32.
    """
    values = pixels.float()
    if noise:
        values = values + noise * torch.randn_like(values)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (values - mean) / std


def pretrain(
    kind: type[P], stills: Any, *, epochs: int, seed: int, batch_size: int = 64, learning_rate: float | None = None
) -> P:
    """Train a backbone with AdamW, warm-up and cosine decay; print the losses of every epoch.

    Args:
        kind: The backbone with its read-outs.
        stills: From ``kind.make_stills``; flipped at random.
        epochs: Passes over the stills.
        seed: Determines the initial weights, the order, the flips and the noise.
        batch_size: Stills per step.
        learning_rate: Learning rate after the warm-up; None: ``kind.learning_rate``.
    """
    torch.manual_seed(seed)
    model, highest = kind().train(), learning_rate or kind.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=highest, weight_decay=0.02, betas=(0.9, 0.98))
    steps = len(stills.pixels) // batch_size
    total, started = epochs * steps, time.monotonic()
    for epoch in range(epochs):
        order, sums = torch.randperm(len(stills.pixels)), dict[str, Tensor]()
        for step in range(steps):
            done = epoch * steps + step
            rate = highest * min(1, (done + 1) / (0.05 * total)) * 0.5 * (1 + math.cos(math.pi * done / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = order[step * batch_size : (step + 1) * batch_size]
            loss, parts = model.losses(stills, rows, is_flipped=bool(torch.rand(()) < 0.5))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums = {name: sums.get(name, 0) + part.detach() for name, part in parts.items()}
        means = "  ".join(f"{name} {float(value) / steps:.4f}" for name, value in sums.items())
        print(f"epoch {epoch + 1:3d}  {means}  {time.monotonic() - started:.0f} s", flush=True)
    return model.eval()


def output_path(backbone: str) -> Path:
    """File from which ``pretrained: builtin`` reads the weights of a backbone."""
    return Path(stgcma.__file__).parent / "weights" / f"{backbone}.safetensors"


def run_command(kind: type[Pretraining], description: str | None) -> None:
    """Parse the command line, pretrain on one thread, print accuracies on held-out stills and store the weights."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stills", type=int, default=kind.num_stills)
    parser.add_argument("--epochs", type=int, default=kind.epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=output_path(kind.backbone))
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = pretrain(kind, kind.make_stills(given.stills, given.seed), epochs=given.epochs, seed=given.seed)
    for name, value in model.accuracies(kind.make_stills(1000, given.seed + 1_000_000)).items():
        print(f"held-out {name}: {value:.3f}")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in model.stored_state().items()}, given.output)
    print(f"{given.output}: {given.output.stat().st_size / 1e3:.0f} kB")
