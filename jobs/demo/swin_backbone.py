"""Pretrains the demo's small frozen Swin, ``swin_demo``, on stills: ``python -m jobs.demo.swin_backbone``.

It learns which kind of object (a shape, small or big), if any, each cell of its three stages shows (cross-entropy).
From the pooled last stage it learns which colours and textures the picture has, and which ninths of the picture are
covered (binary cross-entropy).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.demo.pretraining import (
    MIN_COVER,
    NO_OBJECT,
    NOISE_LEVELS,
    NUM_KINDS,
    Pretraining,
    fresh_backbone,
    kind_of,
    normalise,
    run_command,
)
from pipelines.synthetic.render import COLORS, FRAME_SIZE, TEXTURES, render_still
from stgcma.data.masks import resize_square
from stgcma.models.backbones import backbone_spec

BACKBONE = "swin_demo"
PLACES = 3
"""A picture has ``PLACES x PLACES`` places. Swin has no position embedding; without this task, its pooled features
would not tell where an object is in a picture, or which pitch a sound has in a spectrogram."""
ATTRIBUTES = {"colours": len(COLORS), "textures": len(TEXTURES), "places": PLACES**2}
"""Attributes that are read from the pooled last stage -> number of columns, in order."""


@dataclass(frozen=True)
class Stills:
    """``pixels [N, 48, 48, 3]`` and ``kinds [N, 48, 48]`` (a kind or ``NO_OBJECT``) uint8, ``looks [N, 9]`` {0, 1}."""

    pixels: Tensor
    kinds: Tensor
    looks: Tensor


def make_stills(count: int, seed: int) -> Stills:
    """Render stills with zero to two objects and resize them as frames are resized for masks.

    Args:
        count: ``N``, the number of stills.
        seed: Random seed; the stills depend on nothing else.
    """
    rng = np.random.default_rng(seed)
    pixels = np.empty((count, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    kinds = np.full((count, FRAME_SIZE, FRAME_SIZE), NO_OBJECT, dtype=np.uint8)
    looks = torch.zeros(count, len(COLORS) + len(TEXTURES))
    for index in range(count):
        still = render_still(rng)
        pixels[index] = still.pixels
        for item, look, cover in zip(still.items, still.looks, still.covers, strict=True):
            kinds[index][cover > 0.5] = kind_of(item)
            looks[index, [look.color, len(COLORS) + look.texture]] = 1
    size = backbone_spec(BACKBONE).image_size
    small = F.interpolate(torch.from_numpy(kinds)[None], size=(size, size), mode="nearest-exact")[0]
    return Stills(resize_square(torch.from_numpy(pixels), size), small, looks)


def cell_labels(kinds: Tensor, cells: int) -> Tensor:
    """Kind of each cell of a ``cells x cells`` grid: ``[N, 48, 48] -> [N, cells, cells]``."""
    one_hot = F.one_hot(kinds.long(), NUM_KINDS + 1)[..., :NUM_KINDS].permute(0, 3, 1, 2).float()
    cover, owner = F.avg_pool2d(one_hot, kinds.shape[-1] // cells).max(dim=1)
    return torch.where(cover >= MIN_COVER, owner, NO_OBJECT)


def attribute_labels(stills: Stills, kinds: Tensor, rows: Tensor | slice) -> Tensor:
    """Attributes ``[n, 18]`` in {0, 1}: looks of the stills ``rows`` and places that ``kinds [n, 48, 48]`` covers."""
    covered = cell_labels(kinds, PLACES) != NO_OBJECT
    return torch.cat([stills.looks[rows], covered.flatten(1).float()], dim=1)


class SwinPretraining(Pretraining):
    """The image transformer with the read-outs of its pretraining."""

    backbone = BACKBONE
    num_stills = 16_000
    epochs = 10
    learning_rate = 2e-3
    make_stills = staticmethod(make_stills)

    swin: Any
    """timm's Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.swin = fresh_backbone(BACKBONE).pretrained_module
        widths = [info["num_chs"] for info in self.swin.feature_info]
        self.cells = nn.ModuleList(nn.Linear(width, NUM_KINDS + 1) for width in widths)
        self.attributes = nn.Linear(widths[-1], sum(ATTRIBUTES.values()))

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Normalised ``[N, 3, 48, 48]`` -> cell logits ``[N, h, w, 13]`` per stage, attribute logits ``[N, 18]``."""
        x = self.swin.patch_embed(pixels)
        maps = []
        for layer in self.swin.layers:
            x = layer(x)
            maps.append(x)
        maps[-1] = self.swin.norm(x)
        cells = [read_out(features) for read_out, features in zip(self.cells, maps, strict=True)]
        return cells, self.attributes(maps[-1].mean(dim=(1, 2)))

    def losses(self, stills: Stills, rows: Tensor, *, is_flipped: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses of the cells of each stage and of the attributes."""
        pixels, kinds = stills.pixels[rows], stills.kinds[rows]
        if is_flipped:
            pixels, kinds = pixels.flip(2), kinds.flip(2)
        cells, attributes = self(normalise(pixels.permute(0, 3, 1, 2), NOISE_LEVELS))
        cell_losses = [
            F.cross_entropy(logits.permute(0, 3, 1, 2), cell_labels(kinds, logits.shape[1])) for logits in cells
        ]
        cell_loss = sum(cell_losses, torch.zeros(()))
        attribute_loss = F.binary_cross_entropy_with_logits(attributes, attribute_labels(stills, kinds, rows))
        return cell_loss + attribute_loss, {"cells": cell_loss, "attributes": attribute_loss}

    @torch.no_grad()
    def accuracies(self, stills: Stills) -> dict[str, float]:
        """Accuracies of attributes and of cells of each stage, over all cells and over cells that show an object."""
        cells, attributes = self(normalise(stills.pixels.permute(0, 3, 1, 2)))
        right = ((attributes > 0) == (attribute_labels(stills, stills.kinds, slice(None)) > 0)).float().mean(dim=0)
        parts = right.split(tuple(ATTRIBUTES.values()))
        found = {name: float(part.mean()) for name, part in zip(ATTRIBUTES, parts, strict=True)}
        for stage, logits in enumerate(cells, start=1):
            labels = cell_labels(stills.kinds, logits.shape[1])
            hits, shown = logits.argmax(-1) == labels, labels != NO_OBJECT
            found[f"cells of stage {stage}"] = float(hits.float().mean())
            found[f"cells of stage {stage} that show an object"] = float(hits[shown].float().mean())
        return found

    def stored_state(self) -> dict[str, Tensor]:
        """The whole transformer."""
        return self.swin.state_dict()


if __name__ == "__main__":
    run_command(SwinPretraining, __doc__)
