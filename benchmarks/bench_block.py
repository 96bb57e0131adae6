"""(d) One adapted ViT-B/16 block, forward and backward, against a literal implementation of the paper's equations.

The rival calls open_clip's attention once per modality and stage and computes the cross-attention as two softmax
products. Both have the same weights and must give the same results. Target: not slower.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import Comparison, Variant, compare
from stgcma.config import ModelConfig
from stgcma.models.adaptations.stg_cma import STGCMA, STGCMABlock
from stgcma.models.backbones import backbone_spec
from stgcma.models.backbones.clip_vit import CLIPBackbone, CLIPSpec

SEGMENTS = 10
RATIO = 1 / 8


class StraightforwardBlock(nn.Module):
    """Section 3 of the paper line by line, on tokens ``[B*S, n, D]`` per modality."""

    def __init__(self, backbone: CLIPBackbone, adapted: STGCMABlock) -> None:
        super().__init__()
        self.frozen = backbone.visual.transformer.resblocks[0]
        self.adapted = adapted

    def temporal(self, x: Tensor, branch: str) -> Tensor:
        batch, tokens, width = x.shape[0] // SEGMENTS, x.shape[1], x.shape[2]
        sequences = x.reshape(batch, SEGMENTS, tokens, width).permute(0, 2, 1, 3).reshape(-1, SEGMENTS, width)
        attended = self.adapted.temporal_adapters[branch](self.frozen.attention(self.frozen.ln_1(sequences)))
        back = attended.reshape(batch, tokens, SEGMENTS, width).permute(0, 2, 1, 3)
        return x + back.reshape(x.shape)

    def av_adapter(self, visual: Tensor, audio: Tensor, stage: nn.Module) -> tuple[Tensor, Tensor]:
        see, hear = stage.adapters["visual"], stage.adapters["audio"]
        seen, heard = F.gelu(see.down(visual)), F.gelu(hear.down(audio))
        to_visual = torch.softmax(seen @ heard.transpose(1, 2), dim=-1) @ heard
        to_audio = torch.softmax(heard @ seen.transpose(1, 2), dim=-1) @ seen
        gates = self.adapted.gates
        return (
            visual + see.up(seen + gates.audio_to_visual * to_visual),
            audio + hear.up(heard + gates.visual_to_audio * to_audio),
        )

    def forward(self, visual: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        visual, audio = self.temporal(visual, "visual"), self.temporal(audio, "audio")
        seen = self.frozen.attention(self.frozen.ln_1(visual))
        heard = self.frozen.attention(self.frozen.ln_1(audio))
        seen, heard = self.av_adapter(seen, heard, self.adapted.spatial_adapter)
        visual, audio = visual + seen, audio + heard
        seen, heard = self.frozen.mlp(self.frozen.ln_2(visual)), self.frozen.mlp(self.frozen.ln_2(audio))
        seen, heard = self.av_adapter(seen, heard, self.adapted.global_adapter)
        return visual + seen, audio + heard


def gradients(adapted: STGCMABlock, outputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Outputs and gradients by name, from a backward pass of a fixed scalar."""
    adapted.zero_grad(set_to_none=True)
    (outputs[0].square().mean() + outputs[1].square().mean()).backward()
    result = {name: p.grad for name, p in adapted.named_parameters()}
    return {**result, "visual": outputs[0].detach(), "audio": outputs[1].detach()}


def run(rounds: int = 7, spec: CLIPSpec | None = None) -> Comparison:
    """Compare both blocks.

    Args:
        rounds: Rounds after the warm-up.
        spec: A smaller geometry for a quick run; None: ViT-B/16.
    """
    torch.manual_seed(0)
    spec = replace(spec or backbone_spec("clip_vit_b16"), depths=(1,))
    config = ModelConfig(backbone=spec.name, pretrained="none", adaptation=STGCMA())
    backbone = CLIPBackbone(spec, config).requires_grad_(False)
    frozen = backbone.blocks[0]
    adapted = STGCMABlock(frozen, STGCMA(), RATIO, SEGMENTS, drop_path_rate=0.0)
    for parameter in adapted.parameters():
        nn.init.normal_(parameter, std=0.02)
    rival = StraightforwardBlock(backbone, adapted)
    grid = (spec.image_size // spec.patch_size) ** 2 + 1
    cells = backbone.audio_grid[0] * backbone.audio_grid[1] + 1
    # As in the middle of the stack, the tokens need a gradient.
    visual = torch.randn(1, SEGMENTS, grid, spec.width, requires_grad=True)
    audio = torch.randn(1, SEGMENTS, cells, spec.width, requires_grad=True)

    def ours() -> dict[str, Tensor]:
        out = adapted(frozen, {"visual": visual, "audio": audio})
        return gradients(adapted, (out["visual"].flatten(0, 1), out["audio"].flatten(0, 1)))

    def theirs() -> dict[str, Tensor]:
        return gradients(adapted, rival(visual.flatten(0, 1), audio.flatten(0, 1)))

    def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> str:
        worst = max(((a[n] - b[n]).norm() / b[n].norm().clamp_min(1e-12)).item() for n in b)
        if worst > 1e-3:
            raise AssertionError(f"the two blocks differ by {worst:.1e} (relative L2)")
        return f"outputs and gradients equal to {worst:.0e}"

    return compare(
        title="adapted ViT-B/16 block, forward + backward, 10 segments, fp32",
        variants=[Variant("stgcma block", ours), Variant("straightforward block", theirs)],
        rounds=rounds,
        check=equal,
        target=1.0,
    )


if __name__ == "__main__":
    print(run().table())
