"""Swin (timm) with a second input layer for filter banks (method section 3). Tokens are maps ``[B, S, H, W, D]``."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from timm.layers import PatchEmbed, to_2tuple
from timm.models.swin_transformer import (
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerStage,
    WindowAttention,
    checkpoint_filter_fn,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import Branch, ModelConfig
from stgcma.errors import ConfigError
from stgcma.models.adapters import Tokens
from stgcma.models.backbones.base import Backbone, FrozenBlock, audio_patch_weight, check_input
from stgcma.models.backbones.weights import download_timm_weights
from stgcma.models.containers import children_of


@dataclass(frozen=True, kw_only=True)
class SwinSpec(BackboneSpec):
    """Geometry of one Swin."""

    family: str = "swin"
    window_size: int


SPECS = (
    SwinSpec(
        name="swin_base",
        library_name="swin_base_patch4_window7_224",
        image_size=224,
        patch_size=4,
        width=128,
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        window_size=7,
        audio_size=(224, 224),
        default_tag="ms_in22k",
        fbank="swin",
        fbanks={"avs": "swin_avs", "avqa": "swin_avqa"},
        sizes={"tiny": (1 / 8, 1 / 8, 1 / 16, 1 / 16), "base": (1 / 4, 1 / 4, 1 / 8, 1 / 8)},
    ),
    SwinSpec(
        name="swin_large",
        library_name="swin_large_patch4_window7_224",
        image_size=224,
        patch_size=4,
        width=192,
        depths=(2, 2, 18, 2),
        num_heads=(6, 12, 24, 48),
        window_size=7,
        audio_size=(224, 224),
        default_tag="ms_in22k",
        fbank="swin",
        fbanks={"avs": "swin_avs", "avqa": "swin_avqa"},
        sizes={"tiny": (1 / 8, 1 / 8, 1 / 16, 1 / 16), "base": (1 / 2, 1 / 4, 1 / 8, 1 / 16)},
    ),
    SwinSpec(
        name="swin_demo",
        image_size=48,
        patch_size=4,
        width=24,
        depths=(2, 2, 2),
        num_heads=(2, 4, 8),
        window_size=6,
        audio_size=(48, 48),
        default_tag="builtin",
        fbank="demo",
        sizes={"tiny": (1 / 8,), "base": (1 / 4,)},
    ),
)
"""The sizes reproduce the published counts of Tables 2-4 and 7 (method section 1.3)."""


class SwinBlock(FrozenBlock):
    """One ``SwinTransformerBlock``. The tokens of a window attend to each other. Both branches shift alike."""

    uses_temporal_bias = True

    def __init__(self, block: SwinTransformerBlock, index: int) -> None:
        assert isinstance(block.attn, WindowAttention)
        self.block = block
        self.attention = block.attn
        self.width = block.dim
        self.num_heads = block.attn.num_heads
        self.has_temporal = index % 2 == 0
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.out_proj, self.mlp = block.attn.proj, block.mlp
        height, width = to_2tuple(block.input_resolution)
        if height % block.window_size[0] or width % block.window_size[1]:
            raise ConfigError(
                f"Swin needs a resolution that its windows divide, got {height}x{width} with windows "
                f"{block.window_size[0]}x{block.window_size[1]}. Change image_size or window_size."
            )

    def qkv(self, x: Tensor) -> Tensor:
        return self.attention.qkv(x)

    def to_groups(self, x: Tensor) -> Tensor:
        x = x.flatten(0, 1)
        shift = self.block.shift_size
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))
        return window_partition(x, self.block.window_size).flatten(1, 2)

    def from_groups(self, groups: Tensor, like: Tensor) -> Tensor:
        height, width = like.shape[2:4]
        windows = groups.unflatten(1, self.block.window_size)
        x = window_reverse(windows, self.block.window_size, height, width)
        if any(self.block.shift_size):
            x = torch.roll(x, self.block.shift_size, dims=(1, 2))
        return x.view(like.shape)

    def spatial_bias(self) -> Tensor:
        bias = self.attention._get_rel_pos_bias()
        mask = self.block.attn_mask
        return bias + mask.unsqueeze(1) if isinstance(mask, Tensor) else bias

    def drop_path_mask(self, x: Tensor) -> list[int]:
        """One draw per clip and location, shared by its segments, as in the reference."""
        return [x.shape[0], 1, x.shape[2], x.shape[3], 1]


class SwinBackbone(Backbone):
    """``SwinTransformer`` of timm without its head, and the derived audio input layer.

    In train mode ``ModelConfig.drop_path_rate`` also applies to ``plain_visual`` (the negatives of question answering).
    The adapted blocks do not use the stochastic depth of timm.
    """

    specs: ClassVar[tuple[BackboneSpec, ...]] = SPECS
    provides = frozenset({"stage_maps", "plain_visual"})
    default_audio_patch_weights = "mean"

    def __init__(self, spec: SwinSpec, config: ModelConfig) -> None:
        super().__init__(spec, config)
        self.swin = SwinTransformer(
            img_size=spec.image_size,
            patch_size=spec.patch_size,
            embed_dim=spec.width,
            depths=spec.depths,
            num_heads=spec.num_heads,
            window_size=spec.window_size,
            num_classes=0,
            drop_path_rate=config.drop_path_rate,
        )
        self.audio_proj = nn.Conv2d(1, spec.width, spec.patch_size, stride=spec.patch_size)
        self.audio_norm = copy.deepcopy(self.visual_embedding.norm)
        self.stages = [
            [SwinBlock(block, i) for i, block in enumerate(children_of(stage.blocks, SwinTransformerBlock))]
            for stage in children_of(self.swin.layers, SwinTransformerStage)
        ]
        self.derive_audio_embedding()

    @property
    def pretrained_module(self) -> nn.Module:
        return self.swin

    @property
    def visual_embedding(self) -> PatchEmbed:
        """Input layer of the frames."""
        embedding = self.swin.patch_embed
        assert isinstance(embedding, PatchEmbed)
        return embedding

    def convert_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the patch merging of the original release; drop classifier and index buffers (method section 10)."""
        return {
            name: value
            for name, value in checkpoint_filter_fn(state, self.swin).items()
            if not name.startswith("head.") and not name.endswith(("relative_position_index", "attn_mask"))
        }

    def download_weights(self, tag: str) -> dict[str, Tensor]:
        return download_timm_weights(self.spec.library_name, tag)

    @torch.no_grad()
    def derive_audio_embedding(self) -> None:
        visual = self.visual_embedding
        self.audio_proj.weight.copy_(audio_patch_weight(visual.proj.weight, self.audio_patch_weights))
        self.audio_proj.get_parameter("bias").copy_(visual.proj.get_parameter("bias"))
        self.audio_norm.load_state_dict(visual.norm.state_dict())

    def embed(self, branch: Branch, inputs: Tensor, temporal: Tensor | None) -> Tensor:
        size = self.spec.image_size
        if branch == "visual":
            check_input(branch, inputs, (3, size, size))
            tokens = self.visual_embedding(inputs.flatten(0, 1))
        else:
            check_input(branch, inputs, self.spec.audio_size)
            tokens = self.audio_norm(self.audio_proj(inputs.flatten(0, 1).unsqueeze(1)).permute(0, 2, 3, 1))
        return tokens.unflatten(0, inputs.shape[:2])

    def enter_stage(self, stage: int, x: Tokens) -> Tokens:
        """Patch merging, which timm runs at the start of every stage except the first."""
        if stage == 0:
            return x
        merge = self.swin.layers[stage].get_submodule("downsample")
        return {branch: merge(value.flatten(0, 1)).unflatten(0, value.shape[:2]) for branch, value in x.items()}

    def finish(self, x: Tensor, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
        tokens = self.swin.norm(x)
        return tokens, tokens.mean(dim=(2, 3))

    @torch.no_grad()
    def plain_visual(self, frames: Tensor) -> Tensor:
        return self.swin.forward_features(frames)

    def drop_branch(self, branch: Branch) -> None:
        if branch == "visual":
            del self.swin.patch_embed
        else:
            del self.audio_proj, self.audio_norm

    def frozen_role(self, name: str) -> str:
        return "frozen_audio_patch_embed" if name.startswith(("audio_proj", "audio_norm")) else "frozen_backbone"
