"""What the adapters need to know of a frozen image transformer: one protocol, one shared implementation.

timm's and open_clip's own modules do the work; a ``FrozenBlock`` only decides which tokens attend to each other, and
is handed both branches at once, so that a GPU runs LayerNorm, QKV, output projection and MLP once for both.
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
    """Apply a token-wise layer to both branches: ``{branch: [..., D]} -> {branch: [..., D']}``.

    On a GPU, where a step is bound by kernel launches, both go through in one call; on a CPU the copies this takes cost
    a tenth of the block, so each branch goes through on its own.
    """
    if len(x) == 1 or not next(iter(x.values())).is_cuda:
        return {branch: layer(value) for branch, value in x.items()}
    flat = [value.reshape(-1, value.shape[-1]) for value in x.values()]
    parts = layer(torch.cat(flat)).split([len(part) for part in flat])
    return {branch: part.reshape(*value.shape[:-1], -1) for (branch, value), part in zip(x.items(), parts, strict=True)}


def multi_head_attention(qkv: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """Scaled-dot-product attention within groups.

    Args:
        qkv: ``[G, n, 3D]``, query, key and value stacked.
        num_heads: ``h``.
        bias: Added to the logits, ``[P, h, n, n]``; the groups repeat with period ``P`` (windows of a frame).

    Returns:
        ``[G, n, D]``, before the output projection.
    """
    groups, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    period = 1 if bias is None else bias.shape[0]
    split = qkv.view(groups // period, period, length, 3, num_heads, width // num_heads)
    # The period joins the heads, so that one bias broadcasts over all frames instead of being copied per frame.
    query, key, value = split.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
    if bias is not None:
        bias = bias.flatten(0, 1).to(query.dtype)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return out.unflatten(1, (period, num_heads)).transpose(2, 3).reshape(groups, length, width)


class FrozenBlock(ABC):
    """One frozen transformer block as the adapters see it. Holds references, owns no parameters."""

    width: int
    num_heads: int
    has_temporal: bool = True
    """Whether this block attends over time; in Swin only even blocks do."""
    uses_temporal_bias: bool = False
    """Swin adds a learned relative bias over time; CLIP has a temporal embedding instead."""
    norm1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    out_proj: nn.Module

    @abstractmethod
    def qkv(self, x: Tensor) -> Tensor:
        """``[..., D] -> [..., 3D]``, the attention's input projection."""

    @abstractmethod
    def to_groups(self, x: Tensor) -> Tensor:
        """``[B, S, *tokens, D] -> [G, n, D]``: the tokens that attend to each other in space."""

    @abstractmethod
    def from_groups(self, groups: Tensor, like: Tensor) -> Tensor:
        """Inverse of ``to_groups``; ``like [B, S, *tokens, D]`` gives the shape."""

    def spatial_bias(self) -> Tensor | None:
        """Relative position bias and shift mask, ``[P, h, n, n]``, or None."""
        return None

    @abstractmethod
    def drop_path_mask(self, x: Tensor) -> list[int]:
        """Shape of the stochastic-depth mask for ``x [B, S, *tokens, D]``."""

    def attend_time(self, x: Tokens, bias: Tokens) -> Tokens:
        """``MHSA_time(LN1(x))``: every token position is an independent sequence over the ``S`` segments.

        Args:
            x: ``{branch: [B, S, *tokens, D]}``.
            bias: ``{branch: [1, h, S, S]}`` or empty.
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
        """``FFN(LN2(x))``, ``[B, S, *tokens, D]`` per branch."""
        return packed(lambda tokens: self.mlp(self.norm2(tokens)), x)


class Backbone(nn.Module, ABC):
    """A frozen image transformer with an input layer for each modality: everything that one family owns.

    Args:
        spec: Geometry.
        config: ``num_heads``, ``audio_patch_weights`` and ``drop_path_rate`` are read where they apply.
    """

    specs: ClassVar[tuple[BackboneSpec, ...]]
    """The backbones of this family."""
    provides: ClassVar[frozenset[str]] = frozenset()
    """What tasks may require of it, names in ``stgcma.tasks.spec.CAPABILITIES``. ``stage_maps``: its visual tokens are
    maps ``[B, S, H, W, D]``, one size a stage, for ``AVFeatures.stage_maps``; ``plain_visual``: the method."""
    uses_temporal_embedding: ClassVar[bool] = False
    """Whether a trained embedding of the segment is added to the tokens."""
    default_audio_patch_weights: ClassVar[Literal["sum", "mean"]]
    """``ModelConfig.audio_patch_weights`` where the configuration leaves it open."""

    stages: list[list[FrozenBlock]]
    released: frozenset[str] = frozenset()
    """Names of its parameters that an adaptation trains; everything else of it is frozen."""

    def __init__(self, spec: BackboneSpec, config: ModelConfig) -> None:
        super().__init__()
        self.spec = spec
        self.audio_patch_weights = config.audio_patch_weights or self.default_audio_patch_weights

    @property
    @abstractmethod
    def pretrained_module(self) -> nn.Module:
        """The library's own module: weight files hold its state dict."""

    def freeze_except(self, releases: Callable[[nn.Module, str], bool]) -> None:
        """Freeze all parameters but those for which ``releases(module that holds it, full name)`` is true."""
        self.requires_grad_(False)
        self.released = frozenset(
            name for name, _ in self.named_parameters() if releases(self.get_submodule(name.rpartition(".")[0]), name)
        )
        for name in self.released:
            self.get_parameter(name).requires_grad_(True)

    def convert_weights(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of any release -> names of ``pretrained_module``, without the entries it does not have."""
        return state

    def download_weights(self, tag: str) -> dict[str, Tensor]:
        """Fetch the state dict of a pretrained tag; called only where the spec has a ``library_name``.

        Raises:
            CheckpointError: If the library has no such tag; lists those it has.
        """
        raise CheckpointError(
            f"Backbone {self.spec.name!r} downloads no weights, got tag {tag!r}: use builtin, none or a file."
        )

    @abstractmethod
    def derive_audio_embedding(self) -> None:
        """Set the audio input layer from the visual one; after (re)loading weights."""

    @abstractmethod
    def embed(self, branch: Branch, inputs: Tensor, temporal: Tensor | None) -> Tensor:
        """Frames ``[B, S, 3, H, W]`` or fbank ``[B, S, T, F]`` -> tokens ``[B, S, *tokens, D]``.

        ``temporal [1, S, D]`` is added to every token of its segment.
        """

    def enter_stage(self, stage: int, x: Tokens) -> Tokens:
        """What lies between two stages, such as Swin's patch merging."""
        return x

    @abstractmethod
    def finish(self, x: Tensor, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
        """Last block's output -> (normalised tokens ``[B, S, *tokens, D]``, pooled ``[B, S, D]``)."""

    def take_output_norm(self) -> nn.Module | None:
        """Hand over the final norm if it is trained (CLIP), leaving the backbone without it."""
        return None

    @abstractmethod
    def drop_branch(self, branch: Branch) -> None:
        """Delete the input layer of one modality: a tower of its own (full fine-tuning)."""

    def plain_visual(self, frames: Tensor) -> Tensor:
        """Frames ``[N, 3, H, W]`` through the unadapted backbone: final tokens ``[N, h, w, D]``, without gradient."""
        raise ConfigError(
            f"Backbone {self.spec.name!r} does not provide plain_visual. Choose a backbone whose family does."
        )

    def frozen_role(self, name: str) -> str:
        """Line of the parameter count for one of its parameters; begins with ``frozen_``."""
        return "frozen_backbone"

    @property
    def blocks(self) -> list[FrozenBlock]:
        return [block for stage in self.stages for block in stage]


def check_input(branch: Branch, inputs: Tensor, expected: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless the trailing dimensions are those the backbone reads."""
    if inputs.ndim != 2 + len(expected) or tuple(inputs.shape[2:]) != expected:
        kind = "frames [B, S, 3, H, W]" if branch == "visual" else "fbank [B, S, T, F]"
        raise ValueError(f"The {branch} branch reads {kind} with {list(expected)} last, got {list(inputs.shape)}.")


def audio_patch_weight(conv_weight: Tensor, reduction: str) -> Tensor:
    """RGB patch kernel ``[D, 3, p, p]`` -> one-channel kernel ``[D, 1, p, p]``.

    ``sum`` is what the reference's CLIP does, ``mean`` what the paper says; they differ by a factor of three.
    """
    reduced = conv_weight.sum(1, keepdim=True)
    return reduced / conv_weight.shape[1] if reduction == "mean" else reduced
