"""Full fine-tuning trains separate towers."""

from __future__ import annotations

import pytest

from stgcma.models.adaptations import FullFinetuning
from stgcma.models.parameters import count_parameters
from tests.unit.models.tiny import S, encoder, inputs

FAMILIES = ["clip", "swin"]


@pytest.mark.parametrize("family", FAMILIES)
def test_two_separate_towers_are_trained(family):
    built, x = encoder(family, adaptation=FullFinetuning()), inputs(family)
    count = count_parameters(built)
    assert count.trainable == count.total
    features = built(**x)
    assert set(features.pooled) == {"visual", "audio"}
    assert len(features.stage_maps) == (2 if family == "swin" else 0)
    features.pooled["audio"].sum().backward()
    visual = built.towers["visual"]
    assert all(parameter.grad is None for parameter in visual.parameters())


def test_a_tower_has_one_input_layer_and_one_temporal_embedding():
    built = encoder("clip", adaptation=FullFinetuning())
    assert count_parameters(built).by_role["temporal_embedding"] == 2 * S * 32
    names = [name for name, _ in built.towers["audio"].named_parameters()]
    assert "temporal_embedding.audio" in names
    assert not {"temporal_embedding.visual", "backbone.visual.conv1.weight"} & set(names)


def test_one_branch_is_one_tower():
    built = encoder("swin", adaptation=FullFinetuning(branches="visual"))
    assert built.running == ("visual",)
    assert list(built(visual=inputs("swin")["visual"]).pooled) == ["visual"]
