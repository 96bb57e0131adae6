"""A tiny model learns to answer about the picture, about the sound, and whether they agree."""

import pytest
import torch

from stgcma.config import AnswerHeadConfig, ModelConfig
from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.models.adaptations import STGCMA
from stgcma.models.backbones.swin import SwinSpec
from stgcma.models.parameters import trainable_parameters
from stgcma.tasks import build_model, build_task

pytestmark = pytest.mark.slow

SPEC = SwinSpec(
    name="tiny",
    image_size=16,
    patch_size=4,
    width=16,
    depths=(1,),
    num_heads=(2,),
    window_size=4,
    audio_size=(16, 16),
)
S = 2
KINDS = (("Visual", "Counting"), ("Audio", "Counting"), ("Audio-Visual", "Existential"))


def batch_of(seed, videos):
    """Three questions per video, each a repeated word: is the picture bright, is the sound loud, do they agree?

    The words fill all positions, because the LSTM forgets a short question over the padding and would need many more
    steps.
    """
    generator = torch.Generator().manual_seed(seed)
    seen, heard = torch.randint(2, (2, videos), generator=generator)
    words = torch.arange(1, 4).view(3, 1).expand(3, 14)

    def shown(level, *shape):
        noise = torch.randn(videos, S, *shape, generator=generator) * 0.3
        return noise + (2.0 * level - 1).view(videos, *[1] * (len(shape) + 1))

    answers = torch.stack([seen, heard, (seen == heard).long()], dim=1).flatten()
    return AVBatch(
        clip_ids=tuple(map(str, range(videos))),
        frames=shown(seen, 3, 16, 16),
        fbank=shown(heard, 16, 16),
        targets=QuestionTargets(
            video_index=torch.arange(videos).repeat_interleave(3),
            questions=words.repeat(videos, 1),
            answers=answers,
            types=KINDS * videos,
            question_ids=tuple(range(3 * videos)),
        ),
    )


def accuracies_after_training(branches):
    torch.manual_seed(0)
    adaptation = STGCMA(bottleneck_ratios=(0.5,), branches=branches)
    head = AnswerHeadConfig(match_dims=(8, 8, 4), num_attention_heads=2, dropout=0.0, num_words=4, num_answers=2)
    task = build_task("avqa", ModelConfig(backbone="tiny", pretrained="none", adaptation=adaptation, answer_head=head))
    model = build_model(task, spec=SPEC, num_segments=S).train()
    optimizer = torch.optim.Adam(trainable_parameters(model).values(), lr=1e-2)
    for step in range(100):
        batch = batch_of(step, 16)
        loss = task.loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metrics = task.new_metrics(detailed=True)
    with torch.no_grad():
        batch = batch_of(10_000, 200)
        metrics.update(model.eval()(batch), batch)
    return metrics.compute()


@pytest.mark.parametrize(
    ("branches", "known", "unknown"),
    [
        ("both", ("visual", "audio", "audio_visual"), ()),
        ("visual", ("visual",), ("audio", "audio_visual")),
        ("audio", ("audio",), ("visual", "audio_visual")),
    ],
)
def test_branches_learn_the_questions_that_they_can_answer(branches, known, unknown):
    accuracies = accuracies_after_training(branches)
    assert all(accuracies[group] > 0.95 for group in known), accuracies
    assert all(accuracies[group] < 0.65 for group in unknown), accuracies
