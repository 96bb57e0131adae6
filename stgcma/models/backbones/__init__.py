"""Frozen image transformers: open_clip's CLIP and timm's Swin behind one protocol."""

from stgcma.config import ModelConfig
from stgcma.models.backbones.base import Backbone, FrozenBlock
from stgcma.models.backbones.clip_vit import CLIPBackbone
from stgcma.models.backbones.swin import SwinBackbone
from stgcma.models.backbones.weights import load_pretrained
from stgcma.presets import BACKBONES, BackboneSpec

__all__ = [
    "BACKBONES",
    "FAMILIES",
    "Backbone",
    "CLIPBackbone",
    "FrozenBlock",
    "SwinBackbone",
    "build_backbone",
    "load_pretrained",
]

FAMILIES: dict[str, type[Backbone]] = {"clip": CLIPBackbone, "swin": SwinBackbone}


def build_backbone(spec: BackboneSpec, config: ModelConfig) -> Backbone:
    """The backbone of a spec with fresh weights, on the current default device."""
    if spec.family == "clip":
        return CLIPBackbone(spec, config.num_heads, config.audio_patch_weights)
    return SwinBackbone(spec, config.audio_patch_weights, config.drop_path_rate)
