"""The registry of backbone families. A new family is one file here and one line in ``FAMILIES``."""

from __future__ import annotations

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import ModelConfig
from stgcma.errors import ConfigError
from stgcma.models.backbones.base import Backbone
from stgcma.models.backbones.clip_vit import CLIPBackbone
from stgcma.models.backbones.swin import SwinBackbone

FAMILIES: dict[str, type[Backbone]] = {"clip": CLIPBackbone, "swin": SwinBackbone}
"""``BackboneSpec.family`` -> its class. ``specs`` of the class lists the backbones of the family."""


def backbone_specs() -> dict[str, BackboneSpec]:
    """Name -> spec of every registered backbone."""
    return {spec.name: spec for family in FAMILIES.values() for spec in family.specs}


def backbone_spec(name: str) -> BackboneSpec:
    """The spec of a registered backbone.

    Raises:
        ConfigError: If no family has this name. The message lists the valid names.
    """
    specs = backbone_specs()
    if name not in specs:
        raise ConfigError(f"Unknown backbone {name!r}; choose one of: {', '.join(specs)}.")
    return specs[name]


def build_backbone(spec: BackboneSpec, config: ModelConfig) -> Backbone:
    """A backbone with random weights, on the current default device."""
    return FAMILIES[spec.family](spec, config)
