"""The image transformer of CLIP (open_clip) with a second input layer for filter banks (method section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import Branch, ModelConfig
from stgcma.errors import CheckpointError
from stgcma.models.backbones.base import Backbone, FrozenBlock, audio_patch_weight, check_input


@dataclass(frozen=True, kw_only=True)
class CLIPSpec(BackboneSpec):
    """Geometry of one CLIP image tower."""

    family: str = "clip"
    quick_gelu: bool = True
    """Whether the activation is ``x * sigmoid(1.702 x)`` instead of GELU. OpenAI's weights need it."""


SPECS = (
    CLIPSpec(
        name="clip_vit_b16",
        library_name="ViT-B-16-quickgelu",
        image_size=224,
        patch_size=16,
        width=768,
        depths=(12,),
        num_heads=(12,),
        audio_size=(102, 128),
        default_tag="openai",
        fbank="clip",
        sizes={"tiny": (1 / 32,), "base": (1 / 8,)},
    ),
    CLIPSpec(
        name="clip_vit_l14",
        library_name="ViT-L-14-quickgelu",
        image_size=224,
        patch_size=14,
        width=1024,
        depths=(24,),
        num_heads=(16,),
        audio_size=(102, 128),
        default_tag="openai",
        fbank="clip",
        sizes={"tiny": (1 / 32,), "base": (1 / 16,)},
    ),
    CLIPSpec(
        name="clip_vit_demo",
        image_size=48,
        patch_size=16,
        width=64,
        depths=(4,),
        num_heads=(4,),
        audio_size=(48, 48),
        default_tag="builtin",
        fbank="demo",
        sizes={"tiny": (1 / 8,), "base": (1 / 4,)},
    ),
)
"""The sizes reproduce the published counts of Tables 2 and 5 (method section 1.3)."""


def audio_positions(positions: Tensor, time_cells: int, mel_cells: int) -> Tensor:
    """Positional table of CLIP ``[1 + g * g, D]`` -> that of the audio tokens ``[1 + time_cells * mel_cells, D]``.

    The table is a centred window of the ``g x g`` map, resized bilinearly along an axis on which the audio grid is
    larger. The window is flattened as (mel, time) although the tokens are ordered (time, mel), as in the reference
    (method section 2.1).
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
    """One ``ResidualAttentionBlock``. All tokens of a frame attend to each other, the class token included."""

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
    """``open_clip.transformer.VisionTransformer`` without its projection, and the derived audio input layer.

    ``ModelConfig.num_heads`` overrides the heads of the spec. The reference runs ViT-B/16 with 8.
    """

    specs: ClassVar[tuple[BackboneSpec, ...]] = SPECS
    uses_temporal_embedding = True
    default_audio_patch_weights = "sum"

    def __init__(self, spec: CLIPSpec, config: ModelConfig) -> None:
        super().__init__(spec, config)
        heads = config.num_heads or spec.num_heads[0]
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

    @property
    def pretrained_module(self) -> nn.Module:
        return self.visual

    def convert_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the vision tower or of the whole model -> the vision tower without its projection."""
        if any(name.startswith("visual.") for name in state):
            state = {name.removeprefix("visual."): v for name, v in state.items() if name.startswith("visual.")}
        return {name: value for name, value in state.items() if name != "proj"}

    def download_weights(self, tag: str) -> dict[str, Tensor]:
        model = self.spec.library_name
        known = open_clip.list_pretrained_tags_by_model(model)
        if tag not in known:
            raise CheckpointError(f"{model} has no pretrained tag {tag!r}; open_clip knows: {', '.join(known)}.")
        return open_clip.create_model(model, pretrained=tag).visual.state_dict()

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
