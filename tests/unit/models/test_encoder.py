"""The adapted encoder against the forward passes of the libraries, for every stage and variant."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from stgcma.config import AdaptationConfig, ModelConfig
from stgcma.data.batch import AVBatch
from stgcma.errors import CheckpointError, ConfigError
from stgcma.models.adaptations import STGCMA, NoAdaptation
from stgcma.models.adaptations.stg_cma import drop_path
from stgcma.models.encoder import build_encoder
from stgcma.models.parameters import (
    count_parameters,
    load_trainable_state_dict,
    trainable_parameters,
    trainable_state_dict,
)
from stgcma.tasks import build_model, build_task
from tests.unit.models.tiny import CLIP, SPECS, SWIN, S, encoder, inputs, model_config

FAMILIES = ["clip", "swin"]


def plain_features(built, frames):
    """Pooled features of the frames from open_clip or timm."""
    backbone, flat = built.backbone, frames.flatten(0, 1)
    if built.spec.family == "swin":
        return backbone.swin.forward_features(flat).mean((1, 2))
    visual = backbone.visual
    visual.ln_post = built.ln_post.norm
    try:
        return visual(flat)
    finally:
        visual.ln_post = torch.nn.Identity()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fields", [{}, {"adaptation": NoAdaptation()}], ids=["fresh adapters", "none"])
def test_freshly_built_model_computes_the_plain_backbone(family, fields):
    built, x = encoder(family, **fields), inputs(family)
    with torch.no_grad():
        pooled = built(**x).pooled["visual"].flatten(0, 1)
        torch.testing.assert_close(pooled, plain_features(built, x["visual"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_temporal_stage_is_not_the_plain_backbone(family):
    """It adds raw attention over time, as the first row of Table 7."""
    built, x = encoder(family, temporal_stage="frozen", spatial_stage="absent", global_stage="absent"), inputs(family)
    with torch.no_grad():
        pooled = built(**x).pooled["visual"].flatten(0, 1)
        assert (pooled - plain_features(built, x["visual"])).norm() > 0.01 * pooled.norm()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", ["spatial", "global"])
def test_stage_switched_off_equals_zero_up_projections(family, stage):
    full = encoder(family, random_adapters=True)
    off = encoder(family, **{f"{stage}_stage": "frozen"})
    prefix = {"spatial": "spatial_adapter", "global": "global_adapter"}[stage]
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if f".{prefix}.adapters." in name and ".up." in name:
                parameter.zero_()
    off.load_state_dict({name: full.state_dict()[name] for name in off.state_dict()})
    x = inputs(family)
    with torch.no_grad():
        ours, theirs = off(**x).pooled, full(**x).pooled
    for branch in x:
        torch.testing.assert_close(ours[branch], theirs[branch])


@pytest.mark.parametrize("family", FAMILIES)
def test_temporal_stage_by_hand(family):
    """Eq. 6-7 for the first block: every token position is a sequence over the segments."""
    built, x = encoder(family, random_adapters=True), inputs(family)
    block, adapted = built.backbone.blocks[0], built.stages[0][0]
    with torch.no_grad():
        tokens = {branch: built.embed(branch, value) for branch, value in x.items()}
        out = adapted.temporal_stage(block, tokens)
        for branch, value in tokens.items():
            flat = value.flatten(2, -2)
            heads, width = block.num_heads, block.width
            for position in (0, flat.shape[2] - 1):
                sequence = block.norm1(flat[:, :, position])
                query, key, val = (
                    part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in block.qkv(sequence).chunk(3, -1)
                )
                logits = query @ key.transpose(-2, -1) / (width // heads) ** 0.5
                if branch in adapted.temporal_bias:
                    logits = logits + adapted.temporal_bias[branch]()
                message = (logits.softmax(-1) @ val).transpose(1, 2).flatten(2)
                expected = flat[:, :, position] + adapted.temporal_adapters[branch](block.out_proj(message))
                torch.testing.assert_close(out[branch].flatten(2, -2)[:, :, position], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("branch", ["visual", "audio"])
def test_single_branch_equals_that_branch_without_interaction(family, branch):
    both = encoder(family, random_adapters=True, fusion="none")
    single = encoder(family, branches=branch, adapted_branches=branch)
    single.load_state_dict({n: both.state_dict()[n] for n in single.state_dict()})
    x = inputs(family)
    with torch.no_grad():
        features = single(**{branch: x[branch]})
        torch.testing.assert_close(features.pooled[branch], both(**x).pooled[branch])
    assert list(features.pooled) == [branch]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_branch_that_is_not_adapted_keeps_the_raw_temporal_residual(family):
    adapted = encoder(family, random_adapters=True, adapted_branches="visual")
    raw = encoder(family, temporal_stage="frozen", spatial_stage="frozen", global_stage="frozen")
    own = raw.state_dict()
    raw.load_state_dict({n: adapted.state_dict().get(n, v) for n, v in own.items()})
    x = inputs(family)
    with torch.no_grad():
        torch.testing.assert_close(adapted(**x).pooled["audio"], raw(**x).pooled["audio"])


def test_swin_maps_are_taken_before_merging_and_the_last_after_the_norm():
    built = encoder("swin")
    features = built(**inputs("swin"))
    assert [list(m.shape) for m in features.stage_maps] == [[2, S, 8, 8, 8], [2, S, 4, 4, 16]]
    assert features.stage_maps[-1] is features.tokens["visual"]
    assert encoder("clip")(**inputs("clip")).stage_maps == ()


def test_swin_attends_over_time_in_even_blocks_only():
    built = encoder("swin")
    assert [[block.attends_time for block in stage] for stage in built.stages] == [[True, False], [True, False]]


@pytest.mark.parametrize(("family", "shape"), [("clip", [1, 1, 5, 1]), ("swin", [2, 1, 8, 8, 1])])
def test_drop_path_masks_have_the_shapes_of_the_reference(family, shape):
    built, x = encoder(family), inputs(family)
    tokens = built.embed("visual", x["visual"])
    assert built.backbone.blocks[0].drop_path_mask(tokens) == shape
    torch.manual_seed(0)
    dropped = drop_path(torch.ones_like(tokens), shape, 0.5, training=True)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped, dropped[:1, :1].expand_as(dropped)) == (family == "clip")
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert drop_path(tokens, shape, 0.5, training=False) is tokens


def test_drop_path_rates_rise_linearly():
    built = encoder("swin", drop_path_rate=0.3)
    assert [b.drop_path_rate for stage in built.stages for b in stage] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_changes_every_trained_and_no_frozen_value(family):
    torch.manual_seed(0)
    config = model_config(num_classes=4)
    model = build_model(build_task("ave", config), spec=SPECS[family], num_segments=S)
    own = trainable_parameters(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == own.keys()
    for parameter in own.values():
        torch.nn.init.normal_(parameter, std=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = inputs(family)
    batch = AVBatch(clip_ids=("a", "b"), frames=x["visual"], fbank=x["audio"])
    optimiser = torch.optim.Adam(own.values(), lr=1e-2)
    model(batch)["logits"].square().sum().backward()
    optimiser.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == own.keys()
    assert all(name.startswith("encoder.backbone.") for name in before.keys() - own.keys())


def test_backbone_module_called_adapter_stays_frozen():
    built = encoder("clip")
    built.backbone.adapter = torch.nn.Linear(2, 2)
    assert not any("backbone" in name for name in trainable_parameters(built))
    assert count_parameters(built).by_role["frozen_backbone"] > 6


def test_loading_reads_the_state_of_the_model_once(monkeypatch):
    """On a GPU every read of the state waits for the device."""
    built = encoder("clip")
    state = trainable_state_dict(built)
    calls = []
    own = type(built).state_dict
    monkeypatch.setattr(type(built), "state_dict", lambda model: calls.append(model) or own(model))
    load_trainable_state_dict(built, state)
    assert len(calls) == 1


def test_adapter_checkpoint_round_trip_and_mismatch():
    built, other = encoder("clip", random_adapters=True), encoder("clip", seed=1)
    state = trainable_state_dict(built)
    assert not any(name.startswith("backbone.") for name in state)
    load_trainable_state_dict(other, state)
    assert all(torch.equal(other.state_dict()[name], value) for name, value in state.items())
    state.pop("ln_post.norm.weight")
    with pytest.raises(CheckpointError, match=r"1 tensors missing \['ln_post.norm.weight'\]"):
        load_trainable_state_dict(other, state)


def test_local_weight_files_load_and_wrong_ones_say_what_differs(tmp_path):
    donor = encoder("clip", seed=3)
    state = {f"visual.{k}": v for k, v in donor.backbone.visual.state_dict().items()}
    state |= {f"visual.ln_post.{k}": v for k, v in donor.ln_post.norm.state_dict().items()}
    state["visual.proj"] = torch.zeros(32, 5)
    state["logit_scale"] = torch.zeros(())
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "clip.safetensors")
    config = ModelConfig(
        backbone="tiny",
        pretrained=str(tmp_path / "clip.safetensors"),
        adaptation=STGCMA(size=None, bottleneck_ratios=(0.25,)),
    )
    built = build_encoder(config, num_segments=S, spec=CLIP)
    for name, value in donor.backbone.state_dict().items():
        assert torch.equal(built.backbone.state_dict()[name], value), name
    assert torch.equal(built.backbone.audio_patch_embedding, donor.backbone.visual.conv1.weight.sum(1, keepdim=True))
    with pytest.raises(CheckpointError, match="do not fit backbone 'tiny_swin'"):
        build_encoder(config, num_segments=S, spec=SWIN)
    (tmp_path / "broken.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
        build_encoder(
            ModelConfig(backbone="tiny", pretrained=str(tmp_path / "broken.safetensors"), adaptation=config.adaptation),
            num_segments=S,
            spec=CLIP,
        )


def test_swin_file_of_the_original_release_loads(tmp_path):
    """The file has patch merging at the end of a stage, a classifier and index buffers."""
    donor = encoder("swin", seed=3)
    state = {}
    for name, value in donor.backbone.swin.state_dict().items():
        name = name.replace("layers.1.downsample", "layers.0.downsample")
        state[name] = value
    state["head.weight"], state["head.bias"] = torch.zeros(9, 16), torch.zeros(9)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    torch.save({"model": state}, tmp_path / "swin.pth")
    config = ModelConfig(
        backbone="tiny",
        pretrained=str(tmp_path / "swin.pth"),
        adaptation=STGCMA(size=None, bottleneck_ratios=(0.25,)),
    )
    built = build_encoder(config, num_segments=S, spec=SWIN)
    for name, value in donor.backbone.state_dict().items():
        assert torch.equal(built.backbone.state_dict()[name], value), name
    expected = donor.backbone.swin.patch_embed.proj.weight.mean(1, keepdim=True)
    torch.testing.assert_close(built.backbone.audio_proj.weight.data, expected.data)


def test_inputs_of_the_wrong_size_say_what_was_needed():
    built, x = encoder("clip"), inputs("clip")
    with pytest.raises(ValueError, match=r"audio branch reads fbank .* with \[40, 64\] last, got \[2, 3, 64, 40\]"):
        built(visual=x["visual"], audio=x["audio"].transpose(2, 3))
    with pytest.raises(ValueError, match="built for 3 segments"):
        built(visual=x["visual"][:, :2], audio=x["audio"])
    with pytest.raises(ValueError, match="audio branch runs, but its input is None"):
        built(visual=x["visual"])


def test_a_config_that_is_not_an_adaptation_is_rejected():
    config = model_config(adaptation=AdaptationConfig(method="stg_cma"))
    with pytest.raises(ConfigError, match=r"needs one of stgcma\.models\.adaptations, such as STGCMA"):
        build_encoder(config, num_segments=S, spec=CLIP)


def test_windows_that_do_not_divide_the_image_are_rejected():
    with pytest.raises(ConfigError, match="windows divide, got 8x8 with windows 3x3"):
        build_encoder(model_config(), num_segments=S, spec=replace(SWIN, window_size=3))


def test_the_number_of_heads_changes_the_output_but_not_the_parameters():
    x = inputs("clip")
    four, two = encoder("clip"), encoder("clip", num_heads=2)
    with torch.no_grad():
        assert not torch.allclose(four(**x).pooled["visual"], two(**x).pooled["visual"], atol=1e-4)
    assert count_parameters(four) == count_parameters(two)
