"""Operations from geometry against torch's count of a real pass, and against figures measured for the paper's rows."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from jobs.tables.flops import clip_flops, encoder_flops, plain_visual_flops
from stgcma.config import AdaptationConfig, ModelConfig
from stgcma.models.adaptations import STGCMA, FullFinetuning, NoAdaptation
from stgcma.models.encoder import build_encoder
from stgcma.presets import BackboneSpec, backbone_spec

TINY = {
    "clip": backbone_spec("clip_vit_demo"),
    "swin": BackboneSpec(
        name="swin_tiny_test",
        family="swin",
        library_name="",
        image_size=56,
        patch_size=4,
        width=32,
        depths=(2, 3),
        num_heads=(2, 4),
        window_size=7,
        audio_size=(56, 56),
    ),
}
SIZE = {"size": None, "bottleneck_ratios": (1 / 4,)}
VARIANTS = {
    "full": {},
    "no interaction": {"fusion": "none"},
    "one direction": {"fusion": "visual_to_audio"},
    "visual only": {"branches": "visual"},
    "audio only": {"branches": "audio"},
    "visual adapters": {"adapted_branches": "visual"},
    "frozen temporal": {"temporal_stage": "frozen"},
    "spatial alone, no temporal": {"temporal_stage": "absent", "global_stage": "frozen"},
    "global alone": {"temporal_stage": "frozen", "spatial_stage": "frozen"},
}
ADAPTATIONS = {name: STGCMA(**fields, **SIZE) for name, fields in VARIANTS.items()} | {
    "plain": NoAdaptation(),
    "full fine-tuning": FullFinetuning(),
}


def counted(spec: BackboneSpec, adaptation: AdaptationConfig, segments: int) -> tuple[int, int]:
    """Forward, and forward and backward, of the real encoder as torch counts them."""
    config = ModelConfig(backbone=spec.name, pretrained="none", adaptation=adaptation, drop_path_rate=0.0)
    encoder = build_encoder(config, num_segments=segments, device="meta", spec=spec)
    visual = torch.empty(1, segments, 3, spec.image_size, spec.image_size, device="meta")
    audio = torch.empty(1, segments, *spec.audio_size, device="meta")
    with FlopCounterMode(display=False) as counter:
        features = encoder(visual=visual, audio=audio)
        forward = counter.get_total_flops()
        outputs = [tokens.sum() for tokens in features.tokens.values() if tokens.requires_grad]
        if outputs:
            torch.stack(outputs).sum().backward()
    return forward, counter.get_total_flops()


@pytest.mark.parametrize("variant", ADAPTATIONS)
@pytest.mark.parametrize("family", TINY)
def test_geometry_equals_a_counted_pass(family, variant):
    spec, segments = TINY[family], 3
    adaptation = ADAPTATIONS[variant]
    estimate, _ = encoder_flops(spec, adaptation, segments)
    assert (estimate.forward, estimate.training) == pytest.approx(counted(spec, adaptation, segments), rel=1e-6)


@pytest.mark.parametrize(
    ("backbone", "ratios", "forward", "training"),
    [
        ("clip_vit_b16", (1 / 16,), 590, 1207),
        ("clip_vit_l14", None, 2725, 5584),
        ("swin_base", None, 815, 1735),
        ("swin_large", None, 1862, 3989),
    ],
)
def test_measured_figures_of_ten_second_clips(backbone, ratios, forward, training):
    """GFLOP of the whole model with its AVE head; ViT-B/16 at the ratio of Table 1, the others at Base."""
    adaptation = STGCMA(size=None if ratios else "base", bottleneck_ratios=ratios)
    config = ModelConfig(backbone=backbone, pretrained="none", adaptation=adaptation)
    flops = clip_flops("ave", config, num_segments=10)
    assert round(flops.forward / 1e9) == forward
    assert round(flops.training / 1e9) == training


def test_tasks_add_their_heads():
    config = ModelConfig(backbone="swin_base", pretrained="none", adaptation=STGCMA())
    segmentation = clip_flops("avs", config, num_segments=5)
    encoder, _ = encoder_flops(backbone_spec("swin_base"), config.adaptation, 5)
    assert segmentation.forward > 1.3 * encoder.forward  # the decoder works on four scales
    answering = clip_flops("avqa", config, num_segments=10)
    encoder, _ = encoder_flops(backbone_spec("swin_base"), config.adaptation, 10)
    negatives = plain_visual_flops(backbone_spec("swin_base"), 10)
    assert answering.training > encoder.training + negatives
    assert answering.forward < 1.01 * encoder.forward
