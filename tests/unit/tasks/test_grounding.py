"""Grounding pre-training: the match branch learns on frozen features, and nothing else is trained."""

from dataclasses import replace

import pytest
import torch

from stgcma.config import AnswerHeadConfig, ModelConfig
from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.errors import ConfigError
from stgcma.models.adaptations import NoAdaptation
from stgcma.models.backbones.swin import SwinSpec
from stgcma.models.parameters import trainable_parameters
from stgcma.tasks import build_model, build_task

pytestmark = pytest.mark.slow

SPEC = SwinSpec(
    name="tiny",
    image_size=32,
    patch_size=4,
    width=8,
    depths=(2, 2),
    num_heads=(1, 2),
    window_size=4,
    audio_size=(32, 32),
)
PLAIN = NoAdaptation()
CONFIG = ModelConfig(
    backbone="tiny",
    pretrained="none",
    adaptation=PLAIN,
    drop_path_rate=0.0,
    avqa_variant="b_lavish",
    answer_head=AnswerHeadConfig(dim=16, match_dims=(32, 16, 8), num_attention_heads=2),
)
S = 2


def batch_of(seed, videos=8):
    """Videos whose sound has the level of their frames; negatives have the opposite level."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(2, (videos, 1, 1, 1), generator=generator).float() * 2 - 1
    noise = torch.randn(videos, S, 3, 32, 32, generator=generator) * 0.1
    return AVBatch(
        clip_ids=tuple(map(str, range(videos))),
        frames=level.unsqueeze(-1) + noise,
        fbank=level.expand(videos, S, 32, 32) + torch.randn(videos, S, 32, 32, generator=generator) * 0.1,
        targets=QuestionTargets(
            video_index=torch.arange(videos),
            questions=torch.zeros(videos, 14, dtype=torch.int64),
            answers=torch.zeros(videos, dtype=torch.int64),
            negatives=-level.unsqueeze(-1) + noise,
        ),
    )


def test_the_grounding_layers_learn_to_match_and_nothing_else_is_trained():
    torch.manual_seed(0)
    task = build_task("grounding", CONFIG)
    model = build_model(task, spec=SPEC, num_segments=S).train()
    parameters = trainable_parameters(model)
    assert {name.split(".")[1] for name in parameters} == {"grounding"}
    optimizer = torch.optim.Adam(parameters.values(), lr=1e-2)
    losses = []
    for step in range(60):
        batch = batch_of(step)
        loss = task.loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.693, abs=0.02)
    metrics = task.new_metrics()
    with torch.no_grad():
        metrics.update(model.eval()(batch_of(999, 32)), batch_of(999, 32))
    assert metrics.compute()["match_accuracy"] > 0.95


def test_accuracy_counts_both_kinds_of_pairs():
    metrics = build_task("grounding", CONFIG).new_metrics()
    yes, no = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    outputs = {
        "match_positive": torch.stack([yes, no]).view(1, 2, 2),
        "match_negative": torch.stack([no, no]).view(1, 2, 2),
    }
    metrics.update(outputs, batch_of(0))
    metrics.merge({name: value.clone() for name, value in metrics.sums.items()})
    assert metrics.compute() == {"match_accuracy": 0.75}


def test_one_branch_cannot_match():
    config = replace(CONFIG, adaptation=replace(PLAIN, branches="audio"))
    with pytest.raises(ConfigError, match="needs both branches"):
        build_model(build_task("grounding", config), spec=SPEC, num_segments=S)
