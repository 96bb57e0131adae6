"""Frozen image transformers by family. A new family is one file here and one line in ``FAMILIES``."""

from __future__ import annotations

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import ModelConfig
from stgcma.errors import ConfigError
from stgcma.models.backbones.base import Backbone
from stgcma.models.backbones.clip_vit import CLIPBackbone
from stgcma.models.backbones.swin import SwinBackbone

FAMILIES: dict[str, type[Backbone]] = {"clip": CLIPBackbone, "swin": SwinBackbone}
"""``BackboneSpec.family`` -> its class, which lists the backbones of the family in ``specs``."""


def backbone_specs() -> dict[str, BackboneSpec]:
    """Every registered backbone by name."""
    return {spec.name: spec for family in FAMILIES.values() for spec in family.specs}


def backbone_spec(name: str) -> BackboneSpec:
    """The spec of a backbone name.

    Raises:
        ConfigError: If no family has it; lists the valid names.
    """
    specs = backbone_specs()
    if name not in specs:
        raise ConfigError(f"Unknown backbone {name!r}; choose one of: {', '.join(specs)}.")
    return specs[name]


def build_backbone(spec: BackboneSpec, config: ModelConfig) -> Backbone:
    """The backbone of a spec with fresh weights, on the current default device."""
    return FAMILIES[spec.family](spec, config)
