"""TPAVI equals the published product over all pairs of positions."""

import pytest
import torch
import torch.nn.functional as F

from stgcma.models.tpavi import TPAVI


@pytest.fixture
def module():
    torch.manual_seed(0)
    module = TPAVI(channels=12, audio_dim=7).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def direct_form(module, maps, audio):
    """Method section 4, step 3, literally: the matrix over all S*H*W positions, without softmax."""
    batch, segments, height, width, channels = maps.shape
    x = maps.reshape(batch, -1, channels)
    a = F.linear(audio, module.align.weight, module.align.bias)
    a = a[:, :, None, None].expand(batch, segments, height, width, channels).reshape(batch, -1, channels)
    theta = x @ module.query.weight.T + module.query.bias
    phi = a @ module.key.weight.T + module.key.bias
    g = x @ module.value.weight.T + module.value.bias
    attention = theta @ phi.transpose(1, 2) / (segments * height * width)
    y = attention @ g @ module.out.weight.T + module.out.bias
    y = F.batch_norm(
        y.transpose(1, 2),
        module.out_norm.running_mean.clone(),
        module.out_norm.running_var.clone(),
        module.out_norm.weight,
        module.out_norm.bias,
        training=module.training,
    ).transpose(1, 2)
    return F.layer_norm(x + y, (channels,), module.norm.weight, module.norm.bias).view_as(maps)


@pytest.mark.parametrize("training", [False, True])
def test_equals_the_direct_form_with_all_gradients(module, training):
    module.train(training)
    maps = torch.randn(2, 5, 3, 4, 12, dtype=torch.float64, requires_grad=True)
    audio = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(2, 5, 3, 4, 12, dtype=torch.float64)
    inputs = {"maps": maps, "audio": audio, **dict(module.named_parameters())}
    expected = direct_form(module, maps, audio)
    expected_gradients = torch.autograd.grad((expected * cotangent).sum(), list(inputs.values()))
    got = module(maps, audio)
    gradients = torch.autograd.grad((got * cotangent).sum(), list(inputs.values()))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    for name, gradient, wanted in zip(inputs, gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_a_new_module_is_a_layer_norm_of_the_maps():
    module = TPAVI(channels=8, audio_dim=4)
    maps, audio = torch.randn(2, 5, 3, 3, 8), torch.randn(2, 5, 4)
    torch.testing.assert_close(module(maps, audio), F.layer_norm(maps, (8,)))


def test_the_sound_of_a_segment_reaches_all_segments_of_its_clip_and_no_other_clip(module):
    module.eval()
    maps, audio = torch.randn(2, 5, 3, 3, 12).double(), torch.randn(2, 5, 7).double()
    changed = audio.clone()
    changed[0, 3] += 1
    moved = (module(maps, changed) - module(maps, audio)).abs().amax(dim=(2, 3, 4))
    assert (moved[0] > 1e-6).all()
    assert (moved[1] == 0).all()
