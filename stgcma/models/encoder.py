"""The encoder: both modalities through a frozen transformer and its adaptation (method sections 2 and 3).

Shapes: ``B`` clips, ``S`` segments, ``*tokens`` (CLIP ``n``, class token first; Swin ``H, W``), ``D`` output width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import BRANCHES, Branch, ModelConfig
from stgcma.errors import ConfigError
from stgcma.models.adaptations.base import Adaptation, BlockPlace
from stgcma.models.adapters import OutputNorm, TemporalEmbedding, Tokens
from stgcma.models.backbones import backbone_spec, build_backbone
from stgcma.models.backbones.base import Backbone
from stgcma.models.backbones.weights import load_pretrained
from stgcma.models.containers import TypedModuleDict, TypedModuleList


@dataclass(frozen=True)
class AVFeatures:
    """The output of the encoder, per running branch."""

    tokens: Tokens
    """Final normalised tokens, ``[B, S, *tokens, D]``."""
    pooled: Tokens
    """``[B, S, D]``: the class token (CLIP) or the mean over the tokens (Swin)."""
    stage_maps: tuple[Tensor, ...] = ()
    """Visual maps ``[B, S, H, W, D_stage]``, one per stage, the last one after the final norm. Empty if the backbone
    does not provide them."""

    def __repr__(self) -> str:
        shapes = {branch: list(value.shape) for branch, value in self.tokens.items()}
        return f"AVFeatures(tokens={shapes}, stage_maps={[list(m.shape) for m in self.stage_maps]})"


class AudioVisualEncoder(nn.Module, ABC):
    """Frames and filter banks -> ``AVFeatures``. Heads are built for this base class."""

    spec: BackboneSpec
    running: tuple[Branch, ...]
    """Branches that run; ``forward`` reads only their inputs."""
    output_dim: int
    """``D``."""
    num_segments: int
    """``S``."""

    @abstractmethod
    def forward(self, visual: Tensor | None = None, audio: Tensor | None = None) -> AVFeatures:
        """Encode ``visual [B, S, 3, H, W]`` and ``audio [B, S, T, F]``; the input of a branch not running may be None.

        Raises:
            ValueError: If the input of a running branch is missing or has another shape.
        """

    @abstractmethod
    def plain_visual(self, frames: Tensor) -> Tensor:
        """Frames ``[N, 3, H, W]`` through the plain frozen backbone: tokens ``[N, h, w, D]``, no gradient.

        Raises:
            ConfigError: If the encoder has no such path.
        """


class SharedEncoder(AudioVisualEncoder):
    """One frozen backbone and its adaptation, shared by the branches (section 3 of the paper).

    All weights of the backbone are under ``backbone``. The parameters that the adaptation adds or releases are trained.

    Args:
        backbone: The image transformer with loaded weights and an input layer per modality.
        adaptation: Builds the module of every block and decides what is trained.
        num_segments: ``S``.
        drop_path_rate: Stochastic depth of the last block. The rate rises linearly from 0 in the first block.
        tower: The only branch of this encoder. The input layer of the other branch is deleted. None: both branches.
    """

    def __init__(
        self,
        backbone: Backbone,
        adaptation: Adaptation,
        num_segments: int,
        drop_path_rate: float,
        tower: Branch | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec = backbone.spec
        self.output_dim = spec.output_dim
        self.running = adaptation.running if tower is None else (tower,)
        self.num_segments = num_segments
        if tower is not None:
            backbone.drop_branch("audio" if tower == "visual" else "visual")
        norm = backbone.take_output_norm() if adaptation.trains_output_norm else None
        self.backbone = backbone
        self.ln_post = OutputNorm(norm.requires_grad_(True)) if norm is not None else None
        backbone.freeze_except(adaptation.releases)
        self.temporal_embedding = (
            TemporalEmbedding(num_segments, spec.width, BRANCHES if tower is None else (tower,))
            if adaptation.has_temporal_embedding and backbone.uses_temporal_embedding
            else None
        )
        count = len(backbone.blocks)
        rates = iter([drop_path_rate * i / max(count - 1, 1) for i in range(count)])
        self.stages: TypedModuleList[nn.ModuleList] = TypedModuleList()
        for stage, blocks in enumerate(backbone.stages):
            added = nn.ModuleList()
            for frozen in blocks:
                place = BlockPlace(
                    spec=spec,
                    stage=stage,
                    branches=self.running,
                    num_segments=num_segments,
                    drop_path_rate=next(rates),
                )
                added.append(adaptation.build_block(frozen, place))
            self.stages.append(added)

    def forward(self, visual: Tensor | None = None, audio: Tensor | None = None) -> AVFeatures:
        inputs: dict[Branch, Tensor | None] = {"visual": visual, "audio": audio}
        x = {branch: self.embed(branch, inputs[branch]) for branch in self.running}
        maps: list[Tensor] = []
        for stage, (blocks, adapted_blocks) in enumerate(zip(self.backbone.stages, self.stages, strict=True)):
            x = self.backbone.enter_stage(stage, x)
            for block, adapted in zip(blocks, adapted_blocks, strict=True):
                x = adapted(block, x)
            if "visual" in x:
                maps.append(x["visual"])
        finished = {branch: self.backbone.finish(value, self.ln_post) for branch, value in x.items()}
        tokens = {branch: pair[0] for branch, pair in finished.items()}
        pooled = {branch: pair[1] for branch, pair in finished.items()}
        if not maps or "stage_maps" not in self.backbone.provides:
            return AVFeatures(tokens, pooled)
        return AVFeatures(tokens, pooled, (*maps[:-1], tokens["visual"]))

    def embed(self, branch: Branch, inputs: Tensor | None) -> Tensor:
        """Input layer of one branch, temporal embedding included: ``[B, S, *tokens, D]``."""
        if inputs is None:
            raise ValueError(
                f"The {branch} branch runs, but its input is None. Pass it, or set model.adaptation.branches."
            )
        if inputs.shape[1] != self.num_segments:
            raise ValueError(
                f"The model was built for {self.num_segments} segments, but the {branch} input has {inputs.shape[1]} "
                f"({list(inputs.shape)}). Pass clips with {self.num_segments} segments."
            )
        temporal = None if self.temporal_embedding is None else self.temporal_embedding(branch)
        return self.backbone.embed(branch, inputs, temporal)

    def plain_visual(self, frames: Tensor) -> Tensor:
        return self.backbone.plain_visual(frames)


class SeparateTowers(AudioVisualEncoder):
    """One encoder per branch; the branches share nothing."""

    def __init__(self, towers: Mapping[Branch, SharedEncoder]) -> None:
        super().__init__()
        self.running = tuple(towers)
        first = towers[self.running[0]]
        self.spec, self.output_dim, self.num_segments = first.spec, first.output_dim, first.num_segments
        self.towers: TypedModuleDict[SharedEncoder] = TypedModuleDict(
            {str(branch): tower for branch, tower in towers.items()}
        )

    def forward(self, visual: Tensor | None = None, audio: Tensor | None = None) -> AVFeatures:
        inputs = {"visual": visual, "audio": audio}
        tokens: Tokens = {}
        pooled: Tokens = {}
        maps: tuple[Tensor, ...] = ()
        for branch in self.running:
            features = self.towers[branch](**{branch: inputs[branch]})
            tokens |= features.tokens
            pooled |= features.pooled
            maps = maps or features.stage_maps
        return AVFeatures(tokens, pooled, maps)

    def plain_visual(self, frames: Tensor) -> Tensor:
        raise ConfigError(
            "Separate towers have no frozen backbone to run frames through. Choose another model.adaptation.method."
        )


def build_encoder(
    config: ModelConfig,
    *,
    num_segments: int,
    device: torch.device | str = "cpu",
    spec: BackboneSpec | None = None,
) -> AudioVisualEncoder:
    """Build backbone and adaptation from a model configuration, and load the pretrained weights.

    Args:
        config: Model configuration.
        num_segments: ``S``.
        device: ``"meta"`` needs no memory and loads no weights; parameters can be counted.
        spec: Geometry to use instead of the registered backbone (tests, golden files).

    Raises:
        ConfigError: If the backbone is unknown, or the adaptation does not fit it.
        CheckpointError: If the pretrained weights cannot be loaded.
    """
    geometry, adaptation = spec or backbone_spec(config.backbone), config.adaptation
    if not isinstance(adaptation, Adaptation):
        raise ConfigError(
            f"ModelConfig.adaptation needs one of stgcma.models.adaptations, such as STGCMA(), got {adaptation!r}."
        )
    adaptation.check(geometry)

    def build(tower: Branch | None = None) -> SharedEncoder:
        with torch.device(device):
            backbone = build_backbone(geometry, config)
        if torch.device(device).type != "meta":
            load_pretrained(backbone, config.pretrained)
        with torch.device(device):
            return SharedEncoder(backbone, adaptation, num_segments, config.drop_path_rate, tower)

    if adaptation.separate_towers:
        return SeparateTowers({branch: build(branch) for branch in adaptation.running})
    return build()
