"""Pretrains the demo's small frozen CLIP, ``clip_vit_demo``, on stills: ``python -m jobs.demo.clip_backbone``.

It learns two things: which kinds of object (a shape, small or big), colours and textures a picture shows (binary
cross-entropy on the class token), and which kind each patch shows (cross-entropy on the patch tokens). Without the
second, the class token hardly learns shapes, and everything built on it is weak.

The defaults (20,000 stills, 18 epochs, seed 0) take five minutes on one thread. At the end it prints accuracies on
held-out stills.
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
from pipelines.synthetic.render import COLORS, TEXTURES, Still, render_still
from stgcma.models.backbones import backbone_spec

BACKBONE = "clip_vit_demo"
NUM_ATTRIBUTES = NUM_KINDS + len(COLORS) + len(TEXTURES)


@dataclass(frozen=True)
class Stills:
    """``pixels [N, 3, 48, 48]`` uint8, ``attributes [N, 21]`` {0, 1}, ``patches [N, 9]``: a kind or ``NO_OBJECT``."""

    pixels: Tensor
    attributes: Tensor
    patches: Tensor


def make_stills(count: int, seed: int) -> Stills:
    """Render stills and resize them as the evaluation transform resizes frames, rounded to whole grey levels.

    Args:
        count: ``N``, the number of stills.
        seed: Random seed; the stills depend on nothing else.
    """
    spec = backbone_spec(BACKBONE)
    grid = spec.image_size // spec.patch_size
    rng = np.random.default_rng(seed)
    pixels = torch.empty(count, 3, spec.image_size, spec.image_size, dtype=torch.uint8)
    attributes = torch.zeros(count, NUM_ATTRIBUTES)
    patches = torch.full((count, grid * grid), NO_OBJECT)
    for index in range(count):
        still = render_still(rng)
        picture = torch.from_numpy(still.pixels).permute(2, 0, 1)[None].float()
        small = F.interpolate(picture, spec.image_size, mode="bilinear", align_corners=False)
        pixels[index] = small[0].round().to(torch.uint8)
        attributes[index, attribute_indices(still)] = 1
        patches[index] = patch_labels(still, grid)
    return Stills(pixels, attributes, patches)


def attribute_indices(still: Still) -> list[int]:
    """Columns of ``Stills.attributes`` that are 1 for a picture."""
    columns = [kind_of(item) for item in still.items]
    for look in still.looks:
        columns += [NUM_KINDS + look.color, NUM_KINDS + len(COLORS) + look.texture]
    return columns


def patch_labels(still: Still, grid: int) -> Tensor:
    """Kind of object in each patch, row by row: ``[grid * grid]``."""
    if not still.items:
        return torch.full((grid * grid,), NO_OBJECT)
    cover = F.adaptive_avg_pool2d(torch.from_numpy(still.covers), grid).flatten(1)
    most, owner = cover.max(dim=0)
    kinds = torch.tensor([kind_of(item) for item in still.items])
    return torch.where(most >= MIN_COVER, kinds[owner], NO_OBJECT)


class ClipPretraining(Pretraining):
    """The image transformer with the two read-outs of its pretraining."""

    backbone = BACKBONE
    num_stills = 20_000
    epochs = 18
    learning_rate = 1.5e-3
    make_stills = staticmethod(make_stills)

    visual: Any
    """open_clip's vision tower."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = fresh_backbone(BACKBONE).pretrained_module
        self.visual.output_tokens = True
        width = self.visual.conv1.out_channels
        self.attributes = nn.Linear(width, NUM_ATTRIBUTES)
        self.patches = nn.Linear(width, NO_OBJECT + 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised ``[N, 3, 48, 48]`` -> attribute logits ``[N, 21]`` and patch logits ``[N, 9, 13]``."""
        pooled, tokens = self.visual(pixels)
        return self.attributes(pooled), self.patches(tokens)

    def losses(self, stills: Stills, rows: Tensor, *, is_flipped: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Four times the loss of the attributes plus the loss of the patches."""
        pixels, patches = stills.pixels[rows], stills.patches[rows]
        if is_flipped:
            side = int(patches.shape[1] ** 0.5)
            pixels, patches = pixels.flip(-1), patches.unflatten(1, (side, side)).flip(2).flatten(1)
        attribute_logits, patch_logits = self(normalise(pixels, NOISE_LEVELS))
        attribute_loss = F.binary_cross_entropy_with_logits(attribute_logits, stills.attributes[rows])
        patch_loss = F.cross_entropy(patch_logits.flatten(0, 1), patches.flatten())
        return 4 * attribute_loss + patch_loss, {"attributes": attribute_loss, "patches": patch_loss}

    @torch.no_grad()
    def accuracies(self, stills: Stills) -> dict[str, float]:
        """Accuracies of attributes and patches. ``shown_patches`` counts only patches that show an object."""
        attribute_logits, patch_logits = self(normalise(stills.pixels))
        right = ((attribute_logits > 0) == (stills.attributes > 0)).float().mean(dim=0)
        patch_right, shown = patch_logits.argmax(dim=-1) == stills.patches, stills.patches != NO_OBJECT
        parts = right.split((NUM_KINDS, len(COLORS), len(TEXTURES)))
        found = {name: float(part.mean()) for name, part in zip(("kinds", "colours", "textures"), parts, strict=True)}
        return found | {
            "patches": float(patch_right.float().mean()),
            "shown_patches": float(patch_right[shown].float().mean()),
        }

    def stored_state(self) -> dict[str, Tensor]:
        """The transformer without the projection to the text space."""
        return {name: value for name, value in self.visual.state_dict().items() if name != "proj"}


if __name__ == "__main__":
    run_command(ClipPretraining, __doc__)
