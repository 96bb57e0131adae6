"""The segmentation task on a tiny Swin: decoded frames, loss, scores, and models that are rejected."""

import pytest
import torch

from stgcma.config import MaskDecoderConfig, ModelConfig
from stgcma.data.batch import AVBatch, MaskTargets
from stgcma.errors import ConfigError
from stgcma.models.adaptations import STGCMA
from stgcma.models.backbones.clip_vit import CLIPSpec
from stgcma.models.backbones.swin import SwinSpec
from stgcma.models.parameters import trainable_parameters
from stgcma.tasks import build_model, build_task
from stgcma.tasks.avs import mask_loss

SPEC = SwinSpec(
    name="tiny",
    image_size=64,
    patch_size=4,
    width=8,
    depths=(2, 2, 2, 2),
    num_heads=(1, 2, 4, 8),
    window_size=4,
    audio_size=(64, 64),
)
DECODER = MaskDecoderConfig(channels=8, scale_dims=(4, 4, 6, 6), audio_dim=6, head_dims=(6, 4))


def task_of(**adaptation):
    adaptation = STGCMA(size=None, bottleneck_ratios=(0.25,), **adaptation)
    config = ModelConfig(backbone="tiny", pretrained="none", adaptation=adaptation, mask_decoder=DECODER)
    return build_task("avs", config)


def batch_of(num_masks, clips=2):
    torch.manual_seed(1)
    targets = MaskTargets(
        masks=(torch.rand(clips, num_masks, 64, 64) > 0.7).float(), frame_index=torch.arange(num_masks)
    )
    return AVBatch(
        clip_ids=tuple(map(str, range(clips))),
        frames=torch.randn(clips, 5, 3, 64, 64),
        fbank=torch.randn(clips, 5, 64, 64),
        targets=targets,
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(task_of(), spec=SPEC)


def test_decodes_the_frames_that_have_a_mask_and_all_without_targets(model):
    model.eval()
    one = batch_of(1)
    everything = AVBatch(clip_ids=one.clip_ids, frames=one.frames, fbank=one.fbank)
    with torch.no_grad():
        first, all_frames = model(one)["logits"], model(everything)["logits"]
    assert first.shape == (2, 1, 64, 64)
    assert all_frames.shape == (2, 5, 64, 64)
    torch.testing.assert_close(first, all_frames[:, :1])


def test_every_part_that_the_loss_depends_on_gets_a_gradient(model):
    model.train()
    model.zero_grad()
    for interaction in model.head.decoder.interactions:
        torch.nn.init.ones_(interaction.out_norm.weight)
    batch = batch_of(1)
    task = task_of()
    task.loss(model(batch), batch).backward()
    parameters = trainable_parameters(model)
    assert all(p.grad is None for p in model.encoder.backbone.parameters())
    without = {name for name, p in parameters.items() if p.grad is None}
    assert without == {n for n in parameters if n.startswith("head.decoder.fusions.3.lateral_unit")}


def test_loss_is_the_cross_entropy_with_a_clamped_logarithm():
    logits = torch.tensor([[[[0.0, 30.0], [-200.0, 200.0]]]])
    masks = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    # log 2; about 0; and two pixels whose probability is exactly 0 or 1 on the wrong side: 100 each
    assert mask_loss(logits, masks).item() == pytest.approx((0.693147 + 0 + 100 + 100) / 4, rel=1e-5)


def test_loss_stays_in_float32_under_autocast():
    logits = torch.zeros(1, 1, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mask_loss(logits.bfloat16(), torch.ones(1, 1, 2, 2))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "adaptation", "message"),
    [
        (SPEC, {"branches": "visual", "adapted_branches": "visual"}, "Set model.adaptation.branches: both"),
        (
            CLIPSpec(
                name="clip_tiny",
                image_size=32,
                patch_size=16,
                width=32,
                depths=(2,),
                num_heads=(4,),
                audio_size=(32, 32),
            ),
            {},
            "needs maps of visual tokens .* one of: swin_base",
        ),
    ],
)
def test_models_that_cannot_segment_are_rejected(spec, adaptation, message):
    with pytest.raises(ConfigError, match=message):
        build_model(task_of(**adaptation), device="meta", spec=spec)


def test_decoder_needs_a_width_for_every_stage():
    config = ModelConfig(
        backbone="tiny",
        pretrained="none",
        adaptation=STGCMA(size=None, bottleneck_ratios=(0.25,)),
        mask_decoder=MaskDecoderConfig(scale_dims=(4, 4)),
    )
    with pytest.raises(ConfigError, match=r"4 stages of 'tiny', got \[4, 4\]"):
        build_model(build_task("avs", config), device="meta", spec=SPEC)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"channels": 7}, "channels needs an even number of at least 2, got 7"),
        ({"scale_dims": ()}, "scale_dims needs positive integers"),
        ({"head_dims": (8, 0)}, r"head_dims needs positive integers, got \[8, 0\]"),
    ],
)
def test_decoder_widths_are_checked(field, message):
    with pytest.raises(ConfigError, match=message):
        MaskDecoderConfig(**field)


def test_scores_of_each_clip_average_to_the_metrics(model):
    model.eval()
    batch = batch_of(5)
    task = task_of()
    with torch.no_grad():
        outputs = model(batch)
    metrics = task.new_metrics(detailed=True)
    metrics.update(outputs, batch)
    scores = task.per_clip(outputs, batch)
    assert set(scores) == set(batch.clip_ids)
    ious = torch.stack([scores[clip]["iou"] for clip in batch.clip_ids])
    fscores = torch.stack([scores[clip]["fscore"] for clip in batch.clip_ids])
    assert ious.shape == (2, 5)
    assert metrics.compute()["miou"] == pytest.approx(ious.mean().item(), abs=1e-6)
    assert metrics.compute()["fscore"] == pytest.approx(fscores.mean().item(), abs=1e-6)
