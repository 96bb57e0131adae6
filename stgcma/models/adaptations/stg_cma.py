"""STG-CMA: temporal, spatial and global adapters in every block, with cross-attention between the branches (Eq. 6-15).

Shapes: ``B`` clips, ``S`` segments, ``*tokens`` (CLIP ``n``; Swin ``H, W``), ``D`` width, ``G`` groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stgcma.backbone_spec import BackboneSpec, bottleneck_ratios
from stgcma.config import BRANCHES, Branch, BranchChoice, chosen_branches
from stgcma.errors import ConfigError
from stgcma.models.adaptations.base import Adaptation, BlockPlace
from stgcma.models.adapters import AVAdapter, BottleneckAdapter, Fusion, InteractionGates, TemporalBias, Tokens
from stgcma.models.backbones.base import FrozenBlock
from stgcma.models.containers import TypedModuleDict

StageMode = Literal["absent", "frozen", "adapted"]


@dataclass(frozen=True, kw_only=True)
class STGCMA(Adaptation):
    """Settings of STG-CMA: adapters, stages and messages between the branches (Tables 5 and 7 of the paper)."""

    method: Literal["stg_cma"] = "stg_cma"
    size: Literal["tiny", "base"] | None = "base"
    """Preset of bottleneck ratios, a key of ``BackboneSpec.sizes``. Not read if ``bottleneck_ratios`` is given."""
    bottleneck_ratios: tuple[float, ...] | None = None
    """Explicit ratios ``hidden_dim / width``, one for all stages or one per stage. They override ``size``."""
    adapted_branches: BranchChoice = "both"
    """Which running branches get adapters. The other branch runs the frozen block plus raw attention over time."""
    fusion: Fusion = "both"
    """Which messages the cross-attention (CAIM) sends. ``audio_to_visual``: only the visual branch receives."""
    temporal_stage: StageMode = "adapted"
    """``frozen``: attention over time without an adapter, as in Table 7; ``absent``: no attention over time."""
    spatial_stage: StageMode = "adapted"
    """``frozen``: the residual of the backbone without an adapter; the gates remain. ``absent``: the same, and the
    gates are dropped if both stages are ``absent`` (method section 3.4)."""
    global_stage: StageMode = "adapted"
    """As ``spatial_stage``."""

    def __post_init__(self) -> None:
        problems = []
        if self.bottleneck_ratios is None and self.size is None:
            problems.append("model.adaptation needs size (tiny or base) or bottleneck_ratios, got neither.")
        if self.bottleneck_ratios is not None and (
            not self.bottleneck_ratios or not all(0 < ratio <= 4 for ratio in self.bottleneck_ratios)
        ):
            problems.append(
                "model.adaptation.bottleneck_ratios needs numbers in (0, 4] (hidden_dim / width), "
                f"got {list(self.bottleneck_ratios)}."
            )
        if self.branches != "both" and self.adapted_branches not in ("both", self.branches):
            problems.append(
                f"model.adaptation.adapted_branches is {self.adapted_branches} but only the {self.branches} branch "
                f"runs. Set adapted_branches: {self.branches}, or branches: both."
            )
        if set(self.stage_modes.values()) == {"absent"}:
            problems.append(
                "model.adaptation has no stage, which is the plain backbone. Set model.adaptation: {method: none}."
            )
        if problems:
            raise ConfigError(*problems)

    @property
    def adapted(self) -> tuple[Branch, ...]:
        """The running branches that get adapters."""
        return tuple(branch for branch in self.running if branch in chosen_branches(self.adapted_branches))

    @property
    def stage_modes(self) -> dict[str, StageMode]:
        """Stage -> its mode."""
        return {"temporal": self.temporal_stage, "spatial": self.spatial_stage, "global": self.global_stage}

    @property
    def has_gates(self) -> bool:
        """Whether blocks have gates. Unused gates remain, unless the spatial and the global stage are both absent."""
        return not (self.spatial_stage == self.global_stage == "absent")

    @property
    def has_temporal_embedding(self) -> bool:
        return self.temporal_stage != "absent"

    def ratios(self, spec: BackboneSpec) -> tuple[float, ...]:
        """Bottleneck ratio of every stage of a backbone.

        Raises:
            ConfigError: If the size is unknown or the number of ratios does not fit.
        """
        return bottleneck_ratios(spec, self.size, self.bottleneck_ratios)

    def check(self, spec: BackboneSpec) -> None:
        self.ratios(spec)

    def build_block(self, frozen: FrozenBlock, place: BlockPlace) -> STGCMABlock:
        ratio = self.ratios(place.spec)[place.stage]
        return STGCMABlock(frozen, self, ratio, place.num_segments, place.drop_path_rate)


def drop_path(x: Tensor, mask_shape: list[int], rate: float, training: bool) -> Tensor:
    """Stochastic depth: set ``x`` to zero where a Bernoulli mask is 0, and divide the rest by ``1 - rate``.

    Args:
        x: Any shape.
        mask_shape: Shape of the mask; it broadcasts to ``x``.
        rate: Probability of 0 in the mask.
        training: False: return ``x`` unchanged.
    """
    if rate == 0.0 or not training:
        return x
    keep = 1.0 - rate
    return x * (torch.empty(mask_shape, dtype=x.dtype, device=x.device).bernoulli_(keep) / keep)


class STGCMABlock(nn.Module):
    """The trained parameters of one block and its three stages. ``forward`` receives the frozen block as an argument.

    Args:
        frozen: The block to adapt; only its geometry is read here.
        config: Stages, branches and messages.
        ratio: ``hidden_dim / width``.
        num_segments: ``S``.
        drop_path_rate: Stochastic depth of the temporal residual.
    """

    def __init__(
        self, frozen: FrozenBlock, config: STGCMA, ratio: float, num_segments: int, drop_path_rate: float
    ) -> None:
        super().__init__()
        width, hidden_dim = frozen.width, int(frozen.width * ratio)
        adapted = {stage: config.adapted if mode == "adapted" else () for stage, mode in config.stage_modes.items()}
        self.attends_time = frozen.has_temporal and config.temporal_stage != "absent"
        self.drop_path_rate = drop_path_rate

        self.temporal_adapters: TypedModuleDict[BottleneckAdapter] = TypedModuleDict()
        self.temporal_bias: TypedModuleDict[TemporalBias] = TypedModuleDict()
        if self.attends_time:
            for branch in adapted["temporal"]:
                self.temporal_adapters[branch] = BottleneckAdapter(width, hidden_dim, f"temporal_adapter_{branch}")
            if frozen.uses_temporal_bias:
                for branch in BRANCHES:
                    self.temporal_bias[branch] = TemporalBias(num_segments, frozen.num_heads)
        self.spatial_adapter = AVAdapter(width, hidden_dim, adapted["spatial"], config.fusion, "spatial")
        self.global_adapter = AVAdapter(width, hidden_dim, adapted["global"], config.fusion, "global")
        self.gates = InteractionGates() if config.has_gates else None

    def forward(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """Run the tokens ``{branch: [B, S, *tokens, D]}`` through the block; the result has the same shapes."""
        x = self.temporal_stage(frozen, x)
        x = self.spatial_stage(frozen, x)
        return self.global_stage(frozen, x)

    def temporal_stage(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """``x + DropPath(T-Adapter(MHSA_time(LN1(x))))``, each branch by itself (Eq. 6-7)."""
        if not self.attends_time:
            return x
        bias = {branch: self.temporal_bias[branch]() for branch in x if branch in self.temporal_bias}
        attended = frozen.attend_time(x, bias)
        out: Tokens = {}
        for branch, value in x.items():
            message = attended[branch]
            if branch in self.temporal_adapters:
                message = self.temporal_adapters[branch](message)
            out[branch] = value + drop_path(message, frozen.drop_path_mask(value), self.drop_path_rate, self.training)
        return out

    def spatial_stage(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """``x + AV-Adapter(MHSA(LN1(x)))`` within a frame or a window of a frame (Eq. 8-11)."""
        groups = self.spatial_adapter(frozen.attend_space(x), self.gates)
        return {branch: value + frozen.from_groups(groups[branch], value) for branch, value in x.items()}

    def global_stage(self, frozen: FrozenBlock, x: Tokens) -> Tokens:
        """``x + AV-Adapter(FFN(LN2(x)))`` over all tokens of a frame (Eq. 12-15)."""
        flat = {branch: value.flatten(0, 1).flatten(1, -2) for branch, value in frozen.feed_forward(x).items()}
        out = self.global_adapter(flat, self.gates)
        return {branch: value + out[branch].view(value.shape) for branch, value in x.items()}
