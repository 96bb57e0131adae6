"""Eq. 1-5 re-derived with plain matrix products on random weights."""

import math

import pytest
import torch

from stgcma.models import adapters
from stgcma.models.adapters import AVAdapter, BottleneckAdapter, InteractionGates, TemporalBias, cross_attend
from stgcma.models.backbones import base

G, NV, NA, D, R = 3, 5, 7, 12, 4


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def randomise(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def make_inputs():
    torch.manual_seed(0)
    return {"visual": torch.randn(G, NV, D), "audio": torch.randn(G, NA, D)}


def hidden(adapter, x):
    return gelu(x @ adapter.down.weight.T + adapter.down.bias)


def expected_output(module, x, alpha, beta):
    """Eq. 2-5 by hand. alpha gates the message into the visual branch, beta that into the audio branch."""
    visual, audio = module.adapters["visual"], module.adapters["audio"]
    hv, ha = hidden(visual, x["visual"]), hidden(audio, x["audio"])
    to_visual = torch.softmax(hv @ ha.transpose(1, 2), -1) @ ha
    to_audio = torch.softmax(ha @ hv.transpose(1, 2), -1) @ hv
    hv, ha = hv + alpha * to_visual, ha + beta * to_audio
    return {
        "visual": x["visual"] + hv @ visual.up.weight.T + visual.up.bias,
        "audio": x["audio"] + ha @ audio.up.weight.T + audio.up.bias,
    }


def test_bottleneck_starts_at_zero_and_is_down_gelu_up():
    adapter = BottleneckAdapter(D, R, "temporal_adapter_visual")
    x = torch.randn(2, D)
    assert torch.equal(adapter(x), torch.zeros(2, D))
    assert adapter.down.weight.abs().max() <= 2
    assert adapter.down.weight.std() > 0.005
    randomise(adapter)
    torch.testing.assert_close(adapter(x), hidden(adapter, x) @ adapter.up.weight.T + adapter.up.bias)


@pytest.mark.parametrize(
    ("fusion", "alpha", "beta"),
    [("both", 0.7, -0.4), ("audio_to_visual", 0.7, 0), ("visual_to_audio", 0, -0.4), ("none", 0, 0)],
)
def test_av_adapter_is_equations_1_to_5(fusion, alpha, beta):
    module = randomise(AVAdapter(D, R, ("visual", "audio"), fusion, "spatial"))
    gates = InteractionGates()
    torch.nn.init.constant_(gates.audio_to_visual, 0.7)
    torch.nn.init.constant_(gates.visual_to_audio, -0.4)
    x = make_inputs()
    out, expected = module(x, gates), expected_output(module, x, alpha, beta)
    for branch in x:
        torch.testing.assert_close(out[branch], expected[branch])


@pytest.mark.parametrize(
    ("fusion", "moves_visual", "moves_audio"),
    [("both", True, True), ("audio_to_visual", True, False), ("visual_to_audio", False, True), ("none", False, False)],
)
def test_messages_flow_only_in_the_allowed_direction(fusion, moves_visual, moves_audio):
    module = randomise(AVAdapter(D, R, ("visual", "audio"), fusion, "global"))
    gates = randomise(InteractionGates())
    x = make_inputs()
    base = module(x, gates)
    other_audio = module({**x, "audio": x["audio"] + 1.0}, gates)
    other_visual = module({**x, "visual": x["visual"] + 1.0}, gates)
    assert (not torch.equal(base["visual"], other_audio["visual"])) == moves_visual
    assert (not torch.equal(base["audio"], other_visual["audio"])) == moves_audio


def test_a_branch_without_adapter_is_unchanged_and_sends_no_message():
    module = randomise(AVAdapter(D, R, ("visual",), "both", "spatial"))
    x = make_inputs()
    out = module(x, randomise(InteractionGates()))
    assert out["audio"] is x["audio"]
    expected = x["visual"] + module.adapters["visual"](x["visual"])
    torch.testing.assert_close(out["visual"], expected)


def test_fused_and_explicit_cross_attention_agree_in_value_and_gradient(monkeypatch):
    torch.manual_seed(1)
    query = torch.randn(2, 9, R, dtype=torch.float64, requires_grad=True)
    context = torch.randn(2, 6, R, dtype=torch.float64, requires_grad=True)
    explicit = cross_attend(query, context)
    expected = torch.autograd.grad(explicit.square().sum(), (query, context))
    monkeypatch.setattr(adapters, "SMALL_GROUP", 0)
    fused = cross_attend(query, context)
    torch.testing.assert_close(fused, explicit)
    torch.testing.assert_close(torch.autograd.grad(fused.square().sum(), (query, context)), expected)


def test_cross_attend_rejects_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"query \[2, 3, 4\] and context \[2, 3, 5\].*must share the bottleneck ratio"):
        cross_attend(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))


def test_temporal_bias_is_indexed_by_query_minus_key():
    bias = TemporalBias(num_segments=4, num_heads=2)
    torch.nn.init.normal_(bias.table)
    table = bias()
    assert table.shape == (1, 2, 4, 4)
    for i in range(4):
        for j in range(4):
            assert torch.equal(table[0, :, i, j], bias.table[i - j + 3])


def test_packed_layers_equal_layers_applied_per_branch(monkeypatch):
    """Run the GPU path of ``packed`` on the CPU."""

    class OnGPU(torch.Tensor):
        is_cuda = True

    x = make_inputs()
    layer = torch.nn.Linear(D, 6)
    together = base.packed(layer, {branch: value.as_subclass(OnGPU) for branch, value in x.items()})
    for branch, value in x.items():
        torch.testing.assert_close(together[branch].as_subclass(torch.Tensor), layer(value))
