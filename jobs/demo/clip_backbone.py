"""Pre-trains the demo's small frozen backbone, ``clip_vit_demo``, on stills: ``python -m jobs.demo.clip_backbone``.

The stills come from the renderer of the synthetic AVE (``pipelines/synthetic/render.py``); the backbone sees no
clip, no sound, no time and no label of a clip. Two tasks: which kinds of object (a shape, small or big), colours and
textures are in the picture (binary cross-entropy on the class token), and which kind each patch shows (cross-entropy on
the patch tokens; without it the class token knows shapes badly and everything that is built on it is weak). Both
read-outs are thrown away.

With the defaults: 20,000 stills, 18 epochs, seed 0, one thread, five minutes; it prints held-out accuracies at the end.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from safetensors.torch import save_file
from torch import Tensor, nn

import stgcma
from pipelines.synthetic.render import COLORS, TEXTURES, Still, render_still
from pipelines.synthetic.scenes import SHAPES, SceneObject
from stgcma.config import ModelConfig
from stgcma.models.backbones import backbone_spec, build_backbone

BACKBONE = "clip_vit_demo"
FRESH = ModelConfig(backbone=BACKBONE, pretrained="none", drop_path_rate=0.0)
OUTPUT = Path(stgcma.__file__).parent / "weights" / f"{BACKBONE}.safetensors"
NUM_KINDS = 2 * len(SHAPES)
"""A kind is a shape, small or big: ``kind_of``."""
NUM_ATTRIBUTES = NUM_KINDS + len(COLORS) + len(TEXTURES)
NO_OBJECT = NUM_KINDS
MIN_PATCH_COVER = 0.12
"""A patch shows the object that covers most of it, if that is at least this fraction."""


@dataclass(frozen=True)
class Stills:
    """``pixels [N, 3, 48, 48]`` uint8, ``attributes [N, 21]`` {0, 1}, ``patches [N, 9]`` kind or ``NO_OBJECT``."""

    pixels: Tensor
    attributes: Tensor
    patches: Tensor


def make_stills(count: int, seed: int) -> Stills:
    """Render ``count`` stills, resized as the evaluation transform resizes frames, to one grey level."""
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


def kind_of(item: SceneObject) -> int:
    """Shape and size as one number below ``NUM_KINDS``."""
    return 2 * item.shape + item.is_big


def attribute_indices(still: Still) -> list[int]:
    """Columns of ``Stills.attributes`` that hold for a picture."""
    columns = [kind_of(item) for item in still.items]
    for look in still.looks:
        columns += [NUM_KINDS + look.color, NUM_KINDS + len(COLORS) + look.texture]
    return columns


def patch_labels(still: Still, grid: int) -> Tensor:
    """Kind of object in every patch, row-major ``[grid * grid]``."""
    if not still.items:
        return torch.full((grid * grid,), NO_OBJECT)
    cover = F.adaptive_avg_pool2d(torch.from_numpy(still.covers), grid).flatten(1)
    most, owner = cover.max(dim=0)
    kinds = torch.tensor([kind_of(item) for item in still.items])
    return torch.where(most >= MIN_PATCH_COVER, kinds[owner], NO_OBJECT)


class Pretraining(nn.Module):
    """The image transformer with the two read-outs of pre-training."""

    def __init__(self, visual: VisionTransformer) -> None:
        super().__init__()
        visual.output_tokens = True
        self.visual = visual
        width = visual.conv1.out_channels
        self.attributes = nn.Linear(width, NUM_ATTRIBUTES)
        self.patches = nn.Linear(width, NO_OBJECT + 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised ``[N, 3, 48, 48]`` -> attribute logits ``[N, 21]`` and patch logits ``[N, 9, 13]``."""
        pooled, tokens = self.visual(pixels)
        return self.attributes(pooled), self.patches(tokens)


def normalise(pixels: Tensor, noise: float = 0.0) -> Tensor:
    """uint8 -> normalised float; ``noise`` grey levels stand in for what video compression does to frames."""
    values = pixels.float()
    if noise:
        values = values + noise * torch.randn_like(values)
    spec = backbone_spec(BACKBONE)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (spec.image_mean, spec.image_std))
    return (values - mean) / std


def pretrain(
    stills: Stills, *, epochs: int, seed: int, batch_size: int = 64, learning_rate: float = 1.5e-3
) -> Pretraining:
    """AdamW with warm-up and cosine over the stills, flipped at random; prints the losses of every epoch."""
    torch.manual_seed(seed)
    model = Pretraining(build_backbone(backbone_spec(BACKBONE), FRESH).pretrained_module).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.02, betas=(0.9, 0.98))
    steps = len(stills.pixels) // batch_size
    total, started = epochs * steps, time.monotonic()
    for epoch in range(epochs):
        order, sums = torch.randperm(len(stills.pixels)), torch.zeros(2)
        for step in range(steps):
            done = epoch * steps + step
            rate = learning_rate * min(1, (done + 1) / (0.05 * total)) * 0.5 * (1 + math.cos(math.pi * done / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = order[step * batch_size : (step + 1) * batch_size]
            pixels, patches = stills.pixels[rows], stills.patches[rows]
            if torch.rand(()) < 0.5:
                side = int(patches.shape[1] ** 0.5)
                pixels, patches = pixels.flip(-1), patches.unflatten(1, (side, side)).flip(2).flatten(1)
            attribute_logits, patch_logits = model(normalise(pixels, noise=3.0))
            attribute_loss = F.binary_cross_entropy_with_logits(attribute_logits, stills.attributes[rows])
            patch_loss = F.cross_entropy(patch_logits.flatten(0, 1), patches.flatten())
            optimizer.zero_grad()
            (4 * attribute_loss + patch_loss).backward()
            optimizer.step()
            sums += torch.stack([attribute_loss.detach(), patch_loss.detach()])
        means, seconds = (sums / steps).tolist(), time.monotonic() - started
        print(f"epoch {epoch + 1:3d}  attributes {means[0]:.4f}  patches {means[1]:.4f}  {seconds:.0f} s", flush=True)
    return model.eval()


@torch.no_grad()
def accuracies(model: Pretraining, stills: Stills) -> dict[str, float]:
    """Per-attribute and per-patch accuracy; ``shown_patches`` counts only patches that show something."""
    attribute_logits, patch_logits = model(normalise(stills.pixels))
    right = ((attribute_logits > 0) == (stills.attributes > 0)).float().mean(dim=0)
    patch_right, shown = patch_logits.argmax(dim=-1) == stills.patches, stills.patches != NO_OBJECT
    ends = (0, NUM_KINDS, NUM_KINDS + len(COLORS), NUM_ATTRIBUTES)
    names = ("kinds", "colours", "textures")
    found = {name: float(right[a:b].mean()) for name, a, b in zip(names, ends, ends[1:], strict=False)}
    return found | {
        "patches": float(patch_right.float().mean()),
        "shown_patches": float(patch_right[shown].float().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stills", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = pretrain(make_stills(arguments.stills, arguments.seed), epochs=arguments.epochs, seed=arguments.seed)
    for name, value in accuracies(model, make_stills(1000, arguments.seed + 1_000_000)).items():
        print(f"held-out {name}: {value:.3f}")
    state = {name: value.half().contiguous() for name, value in model.visual.state_dict().items() if name != "proj"}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
