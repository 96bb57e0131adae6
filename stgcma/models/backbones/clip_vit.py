"""CLIP's image transformer (open_clip) with a second input layer for fbanks (method section 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from stgcma.config import Branch
from stgcma.models.adapters import Tokens
from stgcma.models.backbones.base import Backbone, FrozenBlock, check_input
from stgcma.presets import BackboneSpec


def audio_patch_weight(conv_weight: Tensor, reduction: str) -> Tensor:
    """RGB patch kernel ``[D, 3, p, p]`` -> one-channel kernel ``[D, 1, p, p]``.

    ``sum`` is what the reference's CLIP does, ``mean`` what the paper says; they differ by a factor of three.
    """
    reduced = conv_weight.sum(1, keepdim=True)
    return reduced / conv_weight.shape[1] if reduction == "mean" else reduced


def audio_positions(positions: Tensor, time_cells: int, mel_cells: int) -> Tensor:
    """CLIP's positional table ``[1 + G*G, D]`` -> the audio one ``[1 + time_cells * mel_cells, D]``.

    A centred window of the ``G x G`` map is cropped (resized bilinearly along an axis where the fbank grid is larger)
    and flattened as (mel, time), while the tokens are laid out (time, mel): the reference's own order, kept for parity.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    table = positions[1:].reshape(side, side, -1)
    for axis, cells in ((0, mel_cells), (1, time_cells)):
        size = table.shape[axis]
        if cells <= size:
            table = table.narrow(axis, size // 2 - cells // 2, cells)
        else:
            grid = [cells, table.shape[1]] if axis == 0 else [table.shape[0], cells]
            table = F.interpolate(table.permute(2, 0, 1)[None], grid, mode="bilinear", align_corners=False)
            table = table[0].permute(1, 2, 0)
    return torch.cat([positions[:1], table.reshape(-1, positions.shape[1])])


class CLIPBlock(FrozenBlock):
    """One ``ResidualAttentionBlock``; space is all tokens of a frame, the class token included."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        self.attention = block.attn
        self.width = block.attn.embed_dim
        self.num_heads = block.attn.num_heads
        self.norm1, self.norm2 = block.ln_1, block.ln_2
        self.out_proj, self.mlp = block.attn.out_proj, block.mlp

    def qkv(self, x: Tensor) -> Tensor:
        return F.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias)

    def to_groups(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)

    def from_groups(self, groups: Tensor, like: Tensor) -> Tensor:
        return groups.view(like.shape)

    def drop_path_mask(self, x: Tensor) -> list[int]:
        """One draw per token position, shared by all clips and segments, as in the reference."""
        return [1, 1, x.shape[2], 1]


class CLIPBackbone(Backbone):
    """``open_clip.transformer.VisionTransformer`` without its projection, plus the derived audio input layer.

    Args:
        spec: Geometry.
        num_heads: Overrides the spec's heads (8 on ViT-B/16 is what the reference runs).
        audio_patch_weights: ``sum`` or ``mean`` over the RGB kernel.
    """

    uses_temporal_embedding = True

    def __init__(self, spec: BackboneSpec, num_heads: int | None, audio_patch_weights: str | None) -> None:
        super().__init__()
        self.spec = spec
        self.audio_patch_weights = audio_patch_weights or "sum"
        heads = num_heads or spec.num_heads[0]
        self.visual = VisionTransformer(
            image_size=spec.image_size,
            patch_size=spec.patch_size,
            width=spec.width,
            layers=spec.depths[0],
            heads=heads,
            mlp_ratio=4.0,
            output_dim=1,
            act_layer=QuickGELU if spec.quick_gelu else nn.GELU,
        )
        self.visual.proj = None
        self.audio_grid = (spec.audio_size[0] // spec.patch_size, spec.audio_size[1] // spec.patch_size)
        patch, cells = spec.patch_size, self.audio_grid[0] * self.audio_grid[1]
        self.audio_patch_embedding = nn.Parameter(torch.empty(spec.width, 1, patch, patch))
        self.audio_positional_embedding = nn.Parameter(torch.empty(1 + cells, spec.width))
        self.stages = [[CLIPBlock(block) for block in self.visual.transformer.resblocks]]
        self.derive_audio_embedding()

    @torch.no_grad()
    def derive_audio_embedding(self) -> None:
        self.audio_patch_embedding.copy_(audio_patch_weight(self.visual.conv1.weight, self.audio_patch_weights))
        self.audio_positional_embedding.copy_(audio_positions(self.visual.positional_embedding, *self.audio_grid))

    def embed(self, branch: Branch, inputs: Tensor, temporal: Tensor | None) -> Tensor:
        size = self.spec.image_size
        if branch == "visual":
            check_input(branch, inputs, (3, size, size))
            patches = self.visual.conv1(inputs.flatten(0, 1))
            positions = self.visual.positional_embedding
        else:
            check_input(branch, inputs, self.spec.audio_size)
            patches = F.conv2d(
                inputs.flatten(0, 1).unsqueeze(1), self.audio_patch_embedding, stride=self.spec.patch_size
            )
            positions = self.audio_positional_embedding
        tokens = patches.flatten(2).transpose(1, 2)
        class_token = self.visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
        tokens = torch.cat([class_token, tokens], dim=1) + positions
        tokens = tokens.unflatten(0, inputs.shape[:2])
        if temporal is not None:
            tokens = tokens + temporal.unsqueeze(2)
        return self.visual.ln_pre(tokens)

    def enter_stage(self, stage: int, x: Tokens) -> Tokens:
        return x

    def finish(self, x: Tensor, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
        tokens = norm(x) if norm is not None else self.visual.ln_post(x)
        return tokens, tokens[..., 0, :]

    def take_output_norm(self) -> nn.Module:
        norm = self.visual.ln_post
        self.visual.ln_post = nn.Identity()
        return norm

    def drop_branch(self, branch: Branch) -> None:
        if branch == "visual":
            del self.visual.conv1, self.visual.positional_embedding
        else:
            del self.audio_patch_embedding, self.audio_positional_embedding

    def frozen_role(self, name: str) -> str:
        return {
            "audio_patch_embedding": "frozen_audio_patch_embed",
            "audio_positional_embedding": "frozen_audio_pos_embed",
        }.get(name, "frozen_backbone")
