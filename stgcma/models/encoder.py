"""Both modalities through one frozen transformer with adapters: embed -> blocks -> features.

Shapes: ``B`` clips, ``S`` segments, ``*tokens`` (CLIP ``n``, class token first; Swin ``H, W``), ``D`` output width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stgcma.backbone_spec import BackboneSpec, bottleneck_ratios
from stgcma.config import BRANCHES, AdaptationConfig, Branch, ModelConfig
from stgcma.models.adapters import OutputNorm, TemporalEmbedding, Tokens, TrainableModule
from stgcma.models.backbones import backbone_spec, build_backbone
from stgcma.models.backbones.base import Backbone
from stgcma.models.backbones.weights import load_pretrained
from stgcma.models.block import AdaptedBlock


@dataclass(frozen=True)
class AVFeatures:
    """What a head receives, per running branch."""

    tokens: Tokens
    """Final normalised tokens, ``[B, S, *tokens, D]``."""
    pooled: Tokens
    """``[B, S, D]``: the class token (CLIP) or the mean over tokens (Swin)."""
    stage_maps: tuple[Tensor, ...] = ()
    """Visual maps ``[B, S, H, W, C]``, one a stage, the last one after the final norm; where the backbone provides
    them."""

    def __repr__(self) -> str:
        shapes = {branch: list(value.shape) for branch, value in self.tokens.items()}
        return f"AVFeatures(tokens={shapes}, stage_maps={[list(m.shape) for m in self.stage_maps]})"


class AudioVisualEncoder(nn.Module):
    """A frozen image transformer that sees and hears through adapters (section 3 of the paper).

    Frozen weights live under ``backbone`` and nowhere else; everything else is trained.

    Args:
        backbone: The image transformer with an input layer per modality.
        config: Which stages, branches and messages exist.
        ratios: Bottleneck ratio of every stage of the backbone.
        num_segments: ``S``.
        drop_path_rate: Stochastic depth of the last block's temporal residual; linear from 0.
        has_temporal_embedding: Of a backbone that uses one; by default unless the temporal stage is absent.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: AdaptationConfig,
        ratios: tuple[float, ...],
        num_segments: int,
        drop_path_rate: float,
        has_temporal_embedding: bool | None = None,
    ) -> None:
        super().__init__()
        self.spec = backbone.spec
        self.output_dim = backbone.spec.output_dim
        self.running: tuple[Branch, ...] = config.running
        self.num_segments = num_segments
        norm = backbone.take_output_norm()
        self.backbone = backbone.requires_grad_(False)
        self.ln_post = OutputNorm(norm.requires_grad_(True)) if norm is not None else None
        if has_temporal_embedding is None:
            has_temporal_embedding = config.temporal_stage != "absent"
        self.temporal_embedding = (
            TemporalEmbedding(num_segments, backbone.spec.width)
            if has_temporal_embedding and backbone.uses_temporal_embedding
            else None
        )
        count = len(backbone.blocks)
        rates = iter([drop_path_rate * i / max(count - 1, 1) for i in range(count)])
        self.stages = nn.ModuleList(
            nn.ModuleList(AdaptedBlock(block, config, ratio, num_segments, next(rates)) for block in blocks)
            for blocks, ratio in zip(backbone.stages, ratios, strict=True)
        )

    def forward(self, visual: Tensor | None = None, audio: Tensor | None = None) -> AVFeatures:
        """Encode ``visual [B, S, 3, H, W]`` and ``audio [B, S, T, F]``; a branch that does not run may be None."""
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
            raise ValueError(f"The {branch} branch runs but its input is None. Read it, or set adaptation.branches.")
        if inputs.shape[1] != self.num_segments:
            raise ValueError(
                f"The model was built for {self.num_segments} segments, the {branch} input has {inputs.shape[1]} "
                f"({list(inputs.shape)})."
            )
        temporal = None if self.temporal_embedding is None else getattr(self.temporal_embedding, branch)
        return self.backbone.embed(branch, inputs, temporal)

    def plain_visual(self, frames: Tensor) -> Tensor:
        """Frames ``[N, 3, H, W]`` through the plain frozen backbone: tokens ``[N, h, w, D]``, no gradient (AVQA)."""
        return self.backbone.plain_visual(frames)


class FinetunedTower(TrainableModule):
    """One unfrozen single-modality tower of the full fine-tuning row."""

    role: str = "finetuned_backbone"

    def __init__(self, encoder: AudioVisualEncoder) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(True)


class TwoTowerEncoder(nn.Module):
    """Full fine-tuning (Table 5): a tower per modality, nothing shared, no adapters; surface of the encoder."""

    def __init__(self, visual: AudioVisualEncoder, audio: AudioVisualEncoder) -> None:
        super().__init__()
        self.spec, self.output_dim, self.num_segments = visual.spec, visual.output_dim, visual.num_segments
        self.running: tuple[Branch, ...] = BRANCHES
        self.towers = nn.ModuleDict({"visual": FinetunedTower(visual), "audio": FinetunedTower(audio)})

    def forward(self, visual: Tensor | None = None, audio: Tensor | None = None) -> AVFeatures:
        seen = self.towers["visual"].encoder(visual=visual)
        heard = self.towers["audio"].encoder(audio=audio)
        return AVFeatures(seen.tokens | heard.tokens, seen.pooled | heard.pooled, seen.stage_maps)


def build_encoder(
    config: ModelConfig,
    *,
    num_segments: int,
    device: torch.device | str = "cpu",
    spec: BackboneSpec | None = None,
) -> AudioVisualEncoder | TwoTowerEncoder:
    """Backbone with its pretrained weights plus adapters, from one configuration.

    Args:
        config: Backbone name, weights, adaptation.
        num_segments: ``S``.
        device: ``"meta"`` builds without memory or weights, for counting.
        spec: Geometry to use instead of the registered one (tests, golden files).

    Raises:
        ConfigError: Unknown backbone, ratios that do not fit its stages.
        CheckpointError: Weights that cannot be had or do not fit.
    """
    spec = spec or backbone_spec(config.backbone)
    adaptation = config.adaptation
    if adaptation.full_finetuning:
        return TwoTowerEncoder(*(_build_tower(branch, config, num_segments, device, spec) for branch in BRANCHES))
    ratios = bottleneck_ratios(spec, adaptation.size, adaptation.bottleneck_ratios)
    backbone = _load_backbone(config, device, spec)
    with torch.device(device):
        return AudioVisualEncoder(backbone, adaptation, ratios, num_segments, config.drop_path_rate)


def _load_backbone(config: ModelConfig, device: torch.device | str, spec: BackboneSpec) -> Backbone:
    with torch.device(device):
        backbone = build_backbone(spec, config)
    if torch.device(device).type != "meta":
        load_pretrained(backbone, config.pretrained)
    return backbone


def _build_tower(
    branch: Branch, config: ModelConfig, num_segments: int, device: torch.device | str, spec: BackboneSpec
) -> AudioVisualEncoder:
    backbone = _load_backbone(config, device, spec)
    backbone.drop_branch("audio" if branch == "visual" else "visual")
    plain: AdaptationConfig = replace(
        config.adaptation,
        full_finetuning=False,
        size="base",
        branches=branch,
        adapted_branches=branch,
        fusion="none",
        temporal_stage="absent",
        spatial_stage="absent",
        global_stage="absent",
    )
    with torch.device(device):
        encoder = AudioVisualEncoder(
            backbone, plain, (1.0,) * len(spec.depths), num_segments, 0.0, has_temporal_embedding=True
        )
        if encoder.temporal_embedding is not None:
            delattr(encoder.temporal_embedding, "audio" if branch == "visual" else "visual")
    return encoder
