"""Pre-trains the small frozen Swin of the demo, ``swin_demo``, on stills: ``python -m jobs.demo.swin_backbone``.

The stills come from the renderer of the synthetic clips (``pipelines/synthetic/render.py``); the backbone sees no clip,
no sound, no time and no mask of a sounding object. It learns which kind of object (a shape, small or big), if any, each
cell of its three stages shows (cross-entropy), and which colours and textures the picture has and which ninths of it
are covered (binary cross-entropy on the pooled last stage). The read-outs are thrown away.
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
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

import stgcma
from jobs.demo.clip_backbone import NO_OBJECT, NUM_KINDS, kind_of
from pipelines.synthetic.render import COLORS, FRAME_SIZE, TEXTURES, render_still
from stgcma.config import ModelConfig
from stgcma.data.masks import resize_square
from stgcma.models.backbones import backbone_spec, build_backbone

BACKBONE = "swin_demo"
FRESH = ModelConfig(backbone=BACKBONE, pretrained="none", drop_path_rate=0.0)
OUTPUT = Path(stgcma.__file__).parent / "weights" / f"{BACKBONE}.safetensors"
PLACES = 3
"""A picture has ``PLACES x PLACES`` places. Swin has no position embedding; without this task its pooled features would
not tell where something is, and a spectrogram not at which pitch."""
ATTRIBUTES = {"colours": len(COLORS), "textures": len(TEXTURES), "places": PLACES**2}
"""What is read from the pooled last stage, in the order of the columns."""
MIN_COVER = 0.12
"""A cell shows the object that covers most of it, if that is at least this fraction."""
NOISE_LEVELS = 3.0
"""Standard deviation of the noise on training pixels, out of 255."""


@dataclass(frozen=True)
class Stills:
    """``pixels [N, 48, 48, 3]`` and ``kinds [N, 48, 48]`` (or ``NO_OBJECT``) uint8, ``looks [N, 9]`` {0, 1}."""

    pixels: Tensor
    kinds: Tensor
    looks: Tensor


def make_stills(count: int, seed: int) -> Stills:
    """Pictures of no, one or two objects, resized as the reader of the masks resizes them."""
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
    """Kind of every cell of a ``cells x cells`` grid: ``[N, 48, 48] -> [N, cells, cells]``."""
    one_hot = F.one_hot(kinds.long(), NUM_KINDS + 1)[..., :NUM_KINDS].permute(0, 3, 1, 2).float()
    cover, owner = F.avg_pool2d(one_hot, kinds.shape[-1] // cells).max(dim=1)
    return torch.where(cover >= MIN_COVER, owner, NO_OBJECT)


def attribute_labels(stills: Stills, kinds: Tensor, rows: Tensor | slice) -> Tensor:
    """{0, 1}, ``[n, 18]``: looks of the stills ``rows``, and the places that ``kinds [n, 48, 48]`` covers."""
    covered = cell_labels(kinds, PLACES) != NO_OBJECT
    return torch.cat([stills.looks[rows], covered.flatten(1).float()], dim=1)


class Pretraining(nn.Module):
    """The image transformer with the read-outs of pre-training."""

    def __init__(self, swin: SwinTransformer) -> None:
        super().__init__()
        self.swin = swin
        widths = [info["num_chs"] for info in swin.feature_info]
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


def normalise(pixels: Tensor, noise: float = 0.0) -> Tensor:
    """``[N, 48, 48, 3]`` uint8 -> ``[N, 3, 48, 48]`` float32, as the reader of the masks does it."""
    values = pixels.permute(0, 3, 1, 2).float()
    if noise:
        values = values + noise * torch.randn_like(values)
    spec = backbone_spec(BACKBONE)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (spec.image_mean, spec.image_std))
    return (values - mean) / std


def pretrain(
    stills: Stills, *, epochs: int, seed: int, batch_size: int = 64, learning_rate: float = 2e-3
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
            pixels, kinds = stills.pixels[rows], stills.kinds[rows]
            if torch.rand(()) < 0.5:
                pixels, kinds = pixels.flip(2), kinds.flip(2)
            cells, attributes = model(normalise(pixels, NOISE_LEVELS))
            cell_loss = sum(
                F.cross_entropy(logits.permute(0, 3, 1, 2), cell_labels(kinds, logits.shape[1])) for logits in cells
            )
            attribute_loss = F.binary_cross_entropy_with_logits(attributes, attribute_labels(stills, kinds, rows))
            optimizer.zero_grad()
            (cell_loss + attribute_loss).backward()
            optimizer.step()
            sums += torch.stack([cell_loss.detach(), attribute_loss.detach()])
        means, seconds = (sums / steps).tolist(), time.monotonic() - started
        print(f"epoch {epoch + 1:3d}  cells {means[0]:.4f}  attributes {means[1]:.4f}  {seconds:.0f} s", flush=True)
    return model.eval()


@torch.no_grad()
def accuracies(model: Pretraining, stills: Stills) -> dict[str, float]:
    """Accuracy of the read-outs; cells of every stage, all of them and those that show an object."""
    cells, attributes = model(normalise(stills.pixels))
    right = ((attributes > 0) == (attribute_labels(stills, stills.kinds, slice(None)) > 0)).float().mean(dim=0)
    parts = right.split(tuple(ATTRIBUTES.values()))
    found = {name: float(part.mean()) for name, part in zip(ATTRIBUTES, parts, strict=True)}
    for stage, logits in enumerate(cells, start=1):
        labels = cell_labels(stills.kinds, logits.shape[1])
        hits, shown = logits.argmax(-1) == labels, labels != NO_OBJECT
        found[f"cells of stage {stage}"] = float(hits.float().mean())
        found[f"cells of stage {stage} that show an object"] = float(hits[shown].float().mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stills", type=int, default=16_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = pretrain(make_stills(arguments.stills, arguments.seed), epochs=arguments.epochs, seed=arguments.seed)
    for name, value in accuracies(model, make_stills(1000, arguments.seed + 1_000_000)).items():
        print(f"held-out {name}: {value:.3f}")
    state = {name: value.half().contiguous() for name, value in model.swin.state_dict().items()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
