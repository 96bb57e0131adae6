"""The segmentation decoder: sizes, published parameter counts, and decoding of single segments."""

import pytest
import torch

from stgcma.config import MaskDecoderConfig
from stgcma.models.avs_decoder import FusionBlock, MaskDecoder, ResidualUnit
from stgcma.models.parameters import trainable_parameters

TINY = MaskDecoderConfig(channels=8, scale_dims=(4, 4, 6, 6), audio_dim=5, head_dims=(6, 4))


def tiny_inputs(batch=2, segments=5):
    maps = tuple(torch.randn(batch, segments, 16 // 2**s, 16 // 2**s, 4 * 2**s) for s in range(4))
    return maps, torch.randn(batch, segments, 32)


def tiny_decoder():
    decoder = MaskDecoder((4, 8, 16, 32), 32, TINY)
    for interaction in decoder.interactions:
        torch.nn.init.normal_(interaction.out_norm.weight)
    return decoder


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("width", "total"), [(128, 20_738_881), (192, 21_168_961)])
def test_published_number_of_parameters(width, total):
    with torch.device("meta"):
        decoder = MaskDecoder([width * 2**s for s in range(4)], width * 8, MaskDecoderConfig())
    assert count(decoder) == total
    assert sum(p.numel() for p in trainable_parameters(decoder).values()) == total
    if width == 192:
        assert [count(m) for m in decoder.contexts] == [590_848, 1_180_672, 2_950_144, 4_719_616]
        assert [count(m) for m in decoder.projections] == [12_352, 49_280, 246_080, 786_944]
        assert {count(m) for m in decoder.fusions} == {2_360_320}
        assert {count(m) for m in decoder.interactions} == {165_760}
        assert count(decoder.mask_head) == 331_969
        assert count(decoder.audio_projection) == 196_736


def test_logits_have_four_times_the_resolution_of_the_finest_map():
    maps, audio = tiny_inputs()
    assert tiny_decoder()(maps, audio).shape == (2, 5, 64, 64)


def test_decoding_one_segment_gives_the_same_logits_and_gradients():
    torch.manual_seed(0)
    decoder = tiny_decoder().double()
    maps, audio = tiny_inputs()
    maps, audio = tuple(m.double() for m in maps), audio.double()
    parameters = [p for name, p in decoder.named_parameters() if not name.startswith("fusions.3.lateral_unit")]
    everything = decoder(maps, audio)[:, :1]
    decoder.zero_grad()
    first = decoder(maps, audio, torch.tensor([0]))
    torch.testing.assert_close(first, everything)
    wanted = torch.autograd.grad(everything.square().sum(), parameters)
    for gradient, expected in zip(torch.autograd.grad(first.square().sum(), parameters), wanted, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_segments_are_decoded_in_the_given_order():
    decoder = tiny_decoder().eval()
    maps, audio = tiny_inputs()
    torch.testing.assert_close(decoder(maps, audio, torch.tensor([3, 1])), decoder(maps, audio)[:, [3, 1]])


def test_residual_skip_carries_the_rectified_input_and_does_not_change_the_argument():
    unit = ResidualUnit(3)
    x = torch.randn(1, 3, 5, 5)
    before = x.clone()
    branch = unit.conv2(torch.relu(unit.conv1(torch.relu(x))))
    torch.testing.assert_close(unit(x), branch + x.clamp(min=0))
    torch.testing.assert_close(x, before)


def test_coarsest_fusion_block_never_uses_its_lateral_unit():
    block = FusionBlock(3)
    block(torch.randn(1, 3, 4, 4)).sum().backward()
    assert all(p.grad is None for p in block.lateral_unit.parameters())
    assert all(p.grad is not None for p in block.output_unit.parameters())
