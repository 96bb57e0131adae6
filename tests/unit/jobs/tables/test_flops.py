"""Costs on the meta device, compared with torch's count of a real pass and with known values of the paper's models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jobs.tables import flops as flops_module
from jobs.tables.flops import ClipFlops, clip_flops, model_cost
from stgcma.backbone_spec import BackboneSpec
from stgcma.config import ModelConfig
from stgcma.models.adaptations import STGCMA, FullFinetuning, NoAdaptation
from stgcma.models.backbones import backbone_spec
from stgcma.models.backbones.swin import SwinSpec
from stgcma.models.meta import MetaMode
from stgcma.models.parameters import count_parameters
from stgcma.tasks import build_model, build_task
from tests.factories import tiny_batch

pytestmark = pytest.mark.slow

TINY = {
    "clip": backbone_spec("clip_vit_demo"),
    "swin": SwinSpec(
        name="swin_tiny_test",
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


def counted_on_cpu(spec: BackboneSpec, config: ModelConfig, segments: int) -> ClipFlops:
    """Torch's count of a pass with real tensors. Attention runs as matrix products, which torch can count on a CPU."""
    model = build_model(build_task("ave", config), spec=spec, num_segments=segments)
    batch = tiny_batch(1, segments, image_size=spec.image_size, audio_size=spec.audio_size)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = model(batch)["logits"]
        forward = counter.get_total_flops()
        logits.sum().backward()
    return ClipFlops(forward, counter.get_total_flops())


@pytest.mark.parametrize("variant", ADAPTATIONS)
@pytest.mark.parametrize("family", TINY)
def test_the_meta_device_counts_what_a_cpu_computes(family, variant):
    spec, segments = TINY[family], 3
    config = ModelConfig(backbone=spec.name, pretrained="none", adaptation=ADAPTATIONS[variant])
    task = build_task("ave", config)
    model = build_model(task, spec=spec, num_segments=segments, device="meta")
    assert clip_flops(task, model, segments) == counted_on_cpu(spec, config, segments)


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
    """GFLOP of the whole model with its AVE head: ViT-B/16 with the ratio of Table 1, the others with Base."""
    adaptation = STGCMA(size=None if ratios else "base", bottleneck_ratios=ratios)
    flops = model_cost("ave", ModelConfig(backbone=backbone, pretrained="none", adaptation=adaptation)).flops
    assert round(flops.forward / 1e9) == forward
    assert round(flops.training / 1e9) == training


def test_tasks_add_their_heads_and_answering_its_negative_frames():
    config = ModelConfig(backbone="swin_demo", pretrained="none", adaptation=STGCMA())
    plain = replace(config, adaptation=NoAdaptation(branches="visual"))
    frames = model_cost("ave", plain).flops.forward
    events, answers = (model_cost(task, config).flops for task in ("ave", "avqa"))
    one_branch = replace(config, adaptation=STGCMA(branches="visual"))
    seen = model_cost("avqa", one_branch).flops
    assert answers.forward > events.forward
    assert answers.training - answers.forward > events.training - events.forward + frames
    assert seen.training - seen.forward < 2 * seen.forward  # no match loss, so no negative frames
    masks = replace(config, mask_decoder=replace(config.mask_decoder, scale_dims=(64, 128, 320)))
    assert model_cost("avs", masks).flops.forward > events.forward


def test_equal_configurations_are_counted_once(monkeypatch):
    built = []
    monkeypatch.setattr(
        flops_module, "build_model", lambda task, **options: built.append(task) or build_model(task, **options)
    )
    flops_module._model_cost.cache_clear()
    config = ModelConfig(backbone="clip_vit_demo", pretrained="none", adaptation=STGCMA())
    first = model_cost("ave", config)
    assert model_cost("ave", replace(config, pretrained="builtin")) is first
    assert len(built) == 1
    model_cost("ave", replace(config, head_activation="gelu"))
    assert len(built) == 2


def test_a_model_built_from_memory_is_the_same_model():
    task = build_task("ave", ModelConfig(backbone="clip_vit_demo", pretrained="none", adaptation=STGCMA()))
    with MetaMode():
        remembered = build_model(task, device="meta")
    plain = build_model(task, device="meta")
    shapes = {name: (value.shape, value.stride(), value.dtype) for name, value in plain.state_dict().items()}
    assert {name: (v.shape, v.stride(), v.dtype) for name, v in remembered.state_dict().items()} == shapes
    assert count_parameters(remembered) == count_parameters(plain)


def test_fused_attention_without_a_formula_is_refused():
    tokens = torch.zeros(1, 1, 4, 8)  # the CPU's fused kernel has none
    with MetaMode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(NotImplementedError, match="no formula"):
        torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
