"""Base classes of frozen backbones: ``FrozenBlock``, the block that adaptations call, and ``Backbone``.

The layers are those of timm and open_clip. A ``FrozenBlock`` only decides which tokens attend to each other. It
receives both branches at once, so that a GPU runs LayerNorm, QKV, output projection and MLP once for both.

Shapes: ``B`` clips, ``S`` segments, ``*tokens`` (CLIP ``n``; Swin ``H, W``), ``D`` width, ``G`` groups of ``n`` tokens,
``h`` heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import Branch, ModelConfig
from stgcma.errors import CheckpointError, ConfigError
from stgcma.models.adapters import Tokens


def packed(layer: Callable[[Tensor], Tensor], x: Tokens) -> Tokens:
    """Apply a layer that works on single tokens to both branches: ``{branch: [..., D]} -> {branch: [..., D']}``.

    A GPU runs both branches in one call, because kernel launches dominate its step time. A CPU runs one call per
    branch, because concatenating the branches would cost a tenth of the block.
    """
    if len(x) == 1 or not next(iter(x.values())).is_cuda:
        return {branch: layer(value) for branch, value in x.items()}
    flat = [value.reshape(-1, value.shape[-1]) for value in x.values()]
    parts = layer(torch.cat(flat)).split([len(part) for part in flat])
    return {branch: part.reshape(*value.shape[:-1], -1) for (branch, value), part in zip(x.items(), parts, strict=True)}


def multi_head_attention(qkv: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """Scaled-dot-product attention within groups.

    Args:
        qkv: ``[G, n, 3D]``, query, key and value in a row.
        num_heads: ``h``.
        bias: ``[P, h, n, n]``, added to the logits. Group ``g`` uses entry ``g % P`` (the windows of a frame).

    Returns:
        ``[G, n, D]``, before the output projection.
    """
    groups, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    period = 1 if bias is None else bias.shape[0]
    split = qkv.view(groups // period, period, length, 3, num_heads, width // num_heads)
    # The period is merged with the heads, so that one bias broadcasts over all frames without copies.
    query, key, value = split.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
    if bias is not None:
        bias = bias.flatten(0, 1).to(query.dtype)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return out.unflatten(1, (period, num_heads)).transpose(2, 3).reshape(groups, length, width)


class FrozenBlock(ABC):
    """One frozen transformer block as adaptations call it. It only refers to the layers; the ``Backbone`` owns them."""

    width: int
    num_heads: int
    has_temporal: bool = True
    """Whether this block attends over time. In Swin only the even blocks do."""
    uses_temporal_bias: bool = False
    """Whether attention over time has a trained relative bias (Swin). CLIP has a temporal embedding instead."""
    norm1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    out_proj: nn.Module

    @abstractmethod
    def qkv(self, x: Tensor) -> Tensor:
        """Input projection of the attention, ``[..., D] -> [..., 3D]``."""

    @abstractmethod
    def to_groups(self, x: Tensor) -> Tensor:
        """``[B, S, *tokens, D] -> [G, n, D]``: groups of tokens that attend to each other in space."""

    @abstractmethod
    def from_groups(self, groups: Tensor, like: Tensor) -> Tensor:
        """The inverse of ``to_groups``; ``like [B, S, *tokens, D]`` supplies the shape."""

    def spatial_bias(self) -> Tensor | None:
        """Bias of the attention in space, ``[P, h, n, n]``, such as relative positions and shift mask, or None."""
        return None

    @abstractmethod
    def drop_path_mask(self, x: Tensor) -> list[int]:
        """Shape of the mask of stochastic depth for ``x [B, S, *tokens, D]``."""

    def attend_time(self, x: Tokens, bias: Tokens) -> Tokens:
        """``MHSA_time(LN1(x))``: every token position is an independent sequence over the ``S`` segments.

        Args:
            x: ``{branch: [B, S, *tokens, D]}``.
            bias: ``{branch: [1, h, S, S]}``; may be empty.

        Returns:
            ``{branch: [B, S, *tokens, D]}``.
        """
        projected = packed(lambda tokens: self.qkv(self.norm1(tokens)), x)
        attended: Tokens = {}
        for branch, qkv in projected.items():
            batch, segments, width = qkv.shape[0], qkv.shape[1], qkv.shape[-1]
            sequences = qkv.reshape(batch, segments, -1, width).transpose(1, 2).reshape(-1, segments, width)
            out = multi_head_attention(sequences, self.num_heads, bias.get(branch))
            attended[branch] = out.view(batch, -1, segments, self.width).transpose(1, 2).reshape(x[branch].shape)
        return packed(self.out_proj, attended)

    def attend_space(self, x: Tokens) -> Tokens:
        """``MHSA(LN1(x))`` within each group: ``{branch: [B, S, *tokens, D]} -> {branch: [G, n, D]}``."""
        groups = {branch: self.to_groups(self.norm1(value)) for branch, value in x.items()}
        bias = self.spatial_bias()
        attended = {
            branch: multi_head_attention(qkv, self.num_heads, bias) for branch, qkv in packed(self.qkv, groups).items()
        }
        return packed(self.out_proj, attended)

    def feed_forward(self, x: Tokens) -> Tokens:
        """``FFN(LN2(x))``: ``{branch: [B, S, *tokens, D]} -> {branch: [B, S, *tokens, D]}``."""
        return packed(lambda tokens: self.mlp(self.norm2(tokens)), x)


class Backbone(nn.Module, ABC):
    """A frozen image transformer with an input layer for each modality. Each family is a subclass.

    Args:
        spec: Geometry.
        config: Supplies ``num_heads``, ``audio_patch_weights`` and ``drop_path_rate`` where they apply.
    """

    specs: ClassVar[tuple[BackboneSpec, ...]]
    """The backbones of this family."""
    provides: ClassVar[frozenset[str]] = frozenset()
    """Capabilities that tasks may require, keys of ``stgcma.tasks.spec.CAPABILITIES``. ``stage_maps``: the visual
    tokens of every stage are maps ``[B, S, H, W, D]``. ``plain_visual``: the class implements this method."""
    uses_temporal_embedding: ClassVar[bool] = False
    """Whether a trained embedding of the segments is added to the tokens."""
    default_audio_patch_weights: ClassVar[Literal["sum", "mean"]]
    """Value for ``ModelConfig.audio_patch_weights`` if that is None."""

    stages: list[list[FrozenBlock]]
    released: frozenset[str] = frozenset()
    """Names of the parameters that the adaptation trains. All others are frozen."""

    def __init__(self, spec: BackboneSpec, config: ModelConfig) -> None:
        super().__init__()
        self.spec = spec
        self.audio_patch_weights = config.audio_patch_weights or self.default_audio_patch_weights

    @property
    @abstractmethod
    def pretrained_module(self) -> nn.Module:
        """The module of the library. Weight files hold its state dict."""

    def freeze_except(self, releases: Callable[[nn.Module, str], bool]) -> None:
        """Freeze all parameters except those for which ``releases(layer, full name)`` is true."""
        self.requires_grad_(False)
        self.released = frozenset(
            name for name, _ in self.named_parameters() if releases(self.get_submodule(name.rpartition(".")[0]), name)
        )
        for name in self.released:
            self.get_parameter(name).requires_grad_(True)

    def convert_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A published state dict -> the names of ``pretrained_module``, without entries that it does not have."""
        return state

    def download_weights(self, tag: str) -> dict[str, Tensor]:
        """Download the state dict of a pretrained tag. It is called only if the spec has a ``library_name``.

        Raises:
            CheckpointError: If the library has no such tag. The message lists the tags.
        """
        raise CheckpointError(
            f"Backbone {self.spec.name!r} cannot download weights, got tag {tag!r}. Use builtin, none or a file."
        )

    @abstractmethod
    def derive_audio_embedding(self) -> None:
        """Compute the audio input layer from the visual one. It is called after weights were loaded."""

    @abstractmethod
    def embed(self, branch: Branch, inputs: Tensor, temporal: Tensor | None) -> Tensor:
        """Frames ``[B, S, 3, H, W]`` or fbank ``[B, S, T, F]`` -> tokens ``[B, S, *tokens, D]``.

        ``temporal [1, S, D]`` is added to every token of its segment.
        """

    def enter_stage(self, stage: int, x: Tokens) -> Tokens:
        """The layer in front of a stage, such as the patch merging of Swin."""
        return x

    @abstractmethod
    def finish(self, x: Tensor, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
        """Output of the last block -> (normalised tokens ``[B, S, *tokens, D]``, pooled ``[B, S, D]``).

        ``norm`` is the trained output norm; None: the norm of the backbone.
        """

    def take_output_norm(self) -> nn.Module | None:
        """Remove and return the final norm if it is trained (CLIP); None: the backbone keeps it."""
        return None

    @abstractmethod
    def drop_branch(self, branch: Branch) -> None:
        """Delete the input layer of one modality, in a tower of one branch (full fine-tuning)."""

    def plain_visual(self, frames: Tensor) -> Tensor:
        """Frames ``[N, 3, H, W]`` through the backbone without adaptation: tokens ``[N, h, w, D]``, no gradient.

        Raises:
            ConfigError: If the family does not implement it.
        """
        raise ConfigError(
            f"Backbone {self.spec.name!r} does not provide plain_visual. Choose a backbone whose family does."
        )

    def frozen_role(self, name: str) -> str:
        """Line of the parameter count for one parameter of the backbone. It begins with ``frozen_``."""
        return "frozen_backbone"

    @property
    def blocks(self) -> list[FrozenBlock]:
        """The blocks of all stages in order."""
        return [block for stage in self.stages for block in stage]


def check_input(branch: Branch, inputs: Tensor, expected: tuple[int, ...]) -> None:
    """Raise ``ValueError`` if the trailing dimensions of an input are not those that the backbone reads."""
    if inputs.ndim != 2 + len(expected) or tuple(inputs.shape[2:]) != expected:
        kind = "frames [B, S, 3, H, W]" if branch == "visual" else "fbank [B, S, T, F]"
        raise ValueError(f"The {branch} branch reads {kind} with {list(expected)} last, got {list(inputs.shape)}.")


def audio_patch_weight(conv_weight: Tensor, reduction: str) -> Tensor:
    """RGB patch kernel ``[D, 3, p, p]`` -> one-channel kernel ``[D, 1, p, p]``.

    The reference uses ``sum`` for CLIP; the paper says ``mean`` (method section 2.1). They differ by a factor of three.
    """
    reduced = conv_weight.sum(1, keepdim=True)
    return reduced / conv_weight.shape[1] if reduction == "mean" else reduced
