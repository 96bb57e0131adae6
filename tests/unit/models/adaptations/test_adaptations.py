"""The registry of adaptations, and the parameters of the backbone that adaptations release."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import nn

from stgcma.models.adaptations import ADAPTATIONS, DEFAULT_METHOD, Adaptation, NoAdaptation
from stgcma.models.parameters import (
    cast_frozen_matrices,
    count_parameters,
    frozen_sha256,
    load_trainable_state_dict,
    trainable_parameters,
    trainable_state_dict,
)
from tests.unit.models.tiny import encoder, inputs

FAMILIES = ["clip", "swin"]


@dataclass(frozen=True, kw_only=True)
class Biases(Adaptation):
    """Releases every bias of the backbone, but not the tables of relative positions."""

    method: Literal["biases"] = "biases"

    def releases(self, module: nn.Module, name: str) -> bool:
        return name.endswith("bias")


@dataclass(frozen=True, kw_only=True)
class Norms(Adaptation):
    """Releases every LayerNorm of the backbone."""

    method: Literal["norms"] = "norms"

    def releases(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.LayerNorm)


def test_names_equal_the_methods_of_the_classes():
    assert DEFAULT_METHOD in ADAPTATIONS
    for name, cls in ADAPTATIONS.items():
        assert cls.__dataclass_fields__["method"].default == name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_block_is_an_stg_cma_block_without_adapters(family):
    plain, x = encoder(family, adaptation=NoAdaptation()), inputs(family)
    frozen = encoder(family, temporal_stage="absent", spatial_stage="frozen", global_stage="frozen")
    with torch.no_grad():
        ours, theirs = plain(**x).tokens, frozen(**x).tokens
    for branch in x:
        assert torch.equal(ours[branch], theirs[branch])
    assert count_parameters(frozen).by_role.keys() - count_parameters(plain).by_role.keys() == {"gates"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adaptation", [Biases(), Norms()], ids=["biases", "norms"])
def test_only_released_parameters_get_a_gradient(family, adaptation):
    built = encoder(family, adaptation=adaptation)
    sum(tokens.square().sum() for tokens in built(**inputs(family)).pooled.values()).backward()
    with_gradient = {name for name, p in built.named_parameters() if p.grad is not None}
    assert with_gradient == trainable_parameters(built).keys()
    released = {f"backbone.{name}" for name in built.backbone.released}
    assert with_gradient - released == ({"ln_post.norm.weight", "ln_post.norm.bias"} if family == "clip" else set())
    if adaptation.method == "biases":
        assert all(name.endswith("bias") for name in released)
        assert not [name for name in released if "table" in name]


def test_numbers_of_released_parameters():
    """A block of width D has 11 D biases and 4 D parameters in norms. CLIP has a norm before the blocks too."""
    roles = count_parameters(encoder("clip", adaptation=Biases())).by_role
    assert roles["released_backbone"] == 2 * 11 * 32 + 32
    roles = count_parameters(encoder("clip", adaptation=Norms())).by_role
    assert roles["released_backbone"] == 2 * 4 * 32 + 2 * 32
    count = count_parameters(encoder("swin", adaptation=Biases()))
    assert count.trainable == sum(number for role, number in count.by_role.items() if role.startswith("released_"))
    assert count.by_role["released_audio_patch_embed"] == 2 * 8
    assert count.total == count_parameters(encoder("swin", adaptation=NoAdaptation())).total


def test_released_parameters_are_saved_and_do_not_count_as_frozen():
    built, other = encoder("clip", adaptation=Biases()), encoder("clip", adaptation=Biases())
    before = frozen_sha256(built)
    with torch.no_grad():
        for parameter in trainable_parameters(built).values():
            parameter.normal_()
    assert frozen_sha256(built) == before
    state = trainable_state_dict(built)
    assert state.keys() == trainable_parameters(built).keys()
    load_trainable_state_dict(other, state)
    for name, value in state.items():
        assert torch.equal(other.get_parameter(name), value), name


def test_released_parameters_stay_float32_where_frozen_ones_are_cast():
    built = encoder("clip", adaptation=Biases())
    cast_frozen_matrices(built, torch.bfloat16)
    types = {name: parameter.dtype for name, parameter in built.backbone.visual.transformer.named_parameters()}
    assert types["resblocks.0.attn.in_proj_weight"] == torch.bfloat16
    assert types["resblocks.0.attn.in_proj_bias"] == torch.float32
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pooled = built(**inputs("clip")).pooled["visual"]
    assert math.isfinite(pooled.sum().item())
