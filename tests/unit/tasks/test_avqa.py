"""The answering task on a tiny Swin. Encoding a video once gives the loss and gradients of the published loop."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from stgcma.config import AnswerHeadConfig, ModelConfig
from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.errors import ConfigError, ShardMismatchError
from stgcma.models.adaptations import STGCMA, FullFinetuning
from stgcma.models.backbones.clip_vit import CLIPSpec
from stgcma.models.backbones.swin import SwinSpec
from stgcma.models.parameters import trainable_parameters
from stgcma.tasks import build_model, build_task
from stgcma.tasks.avqa import answer_loss, match_loss

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
HEAD = AnswerHeadConfig(
    dim=8, released_audio_dim=4, match_dims=(8, 8, 4), num_attention_heads=2, dropout=0.0, num_words=12, num_answers=5
)
S = 2
VIDEO_OF_QUESTION = (0, 0, 1, 0, 1)


def task_of(variant="l", head=HEAD, adaptation=None, **fields):
    adaptation = adaptation or STGCMA(**{"size": None, "bottleneck_ratios": (0.25,), **fields})
    config = ModelConfig(
        backbone="tiny",
        pretrained="none",
        adaptation=adaptation,
        drop_path_rate=0.0,
        avqa_variant=variant,
        answer_head=head,
    )
    return build_task("avqa", config)


def model_of(task, seed=0):
    """A model with random trained parameters, so that no zero hides a path."""
    torch.manual_seed(seed)
    model = build_model(task, spec=SPEC, num_segments=S)
    for parameter in trainable_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


def grouped_batch(negatives="stored"):
    generator = torch.Generator().manual_seed(3)
    count = len(VIDEO_OF_QUESTION)
    targets = QuestionTargets(
        video_index=torch.tensor(VIDEO_OF_QUESTION),
        questions=torch.randint(12, (count, 14), generator=generator),
        answers=torch.randint(5, (count,), generator=generator),
        types=(("Audio", "Counting"),) * count,
        question_ids=tuple(range(100, 100 + count)),
    )
    if negatives == "stored":
        targets = replace(targets, negatives=torch.randn(count, S, 3, 32, 32, generator=generator))
    elif negatives == "batch":
        other = (1 - targets.video_index).unsqueeze(1).expand(-1, S)
        second = torch.randint(S, (count, S), generator=generator)
        targets = replace(targets, negative_index=torch.stack([other, second], dim=-1))
    return AVBatch(
        clip_ids=("a", "b"),
        frames=torch.randn(2, S, 3, 32, 32, generator=generator),
        fbank=torch.randn(2, S, 32, 32, generator=generator),
        targets=targets,
    )


def ungrouped(batch):
    """The batch of the published loop: every question has its own copy of the video."""
    index = batch.targets.video_index
    return AVBatch(
        clip_ids=tuple(f"{batch.clip_ids[v]}{q}" for q, v in enumerate(index.tolist())),
        frames=batch.frames[index],
        fbank=batch.fbank[index],
        targets=replace(batch.targets, video_index=torch.arange(len(index))),
    )


def loss_and_gradients(task, model, batch):
    model.zero_grad()
    loss = task.loss(model(batch), batch)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in trainable_parameters(model).items() if p.grad is not None}


def assert_same(got, expected):
    assert torch.allclose(got[0], expected[0], rtol=1e-5)
    assert got[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        assert value.norm() > 0 or "gates" in name or name.endswith("in_proj_bias"), name
        assert (got[1][name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name


@pytest.mark.parametrize("variant", ["b_lavish", "b_released", "l"])
def test_encoding_a_video_once_gives_the_same_loss_and_gradients(variant):
    task = task_of(variant)
    model = model_of(task)
    batch = grouped_batch()
    encoded = []
    model.encoder.register_forward_hook(lambda _m, _i, out: encoded.append(len(out.tokens["visual"])))
    grouped = loss_and_gradients(task, model, batch)
    assert_same(grouped, loss_and_gradients(task, model, ungrouped(batch)))
    assert encoded == [2, 5]
    assert len(grouped[1]) == len(trainable_parameters(model))


def test_negatives_from_the_batch_equal_the_same_stored_frames():
    task = task_of()
    model = model_of(task)
    batch = grouped_batch("batch")
    video, second = batch.targets.negative_index.unbind(-1)
    stored = replace(batch, targets=replace(batch.targets, negatives=batch.frames[video, second], negative_index=None))
    assert_same(loss_and_gradients(task, model, batch), loss_and_gradients(task, model, stored))


def test_two_workers_average_to_the_gradient_of_one():
    task = task_of()
    model = model_of(task)
    batch = grouped_batch()
    whole = loss_and_gradients(task, model, batch)
    parts = []
    for video in (0, 1):
        rows = torch.nonzero(batch.targets.video_index == video).flatten()
        targets = replace(
            batch.targets,
            video_index=torch.zeros(len(rows), dtype=torch.int64),
            questions=batch.targets.questions[rows],
            answers=batch.targets.answers[rows],
            negatives=batch.targets.negatives[rows],
            loss_questions=5 / 2,
        )
        part = AVBatch(
            clip_ids=("x",),
            frames=batch.frames[video : video + 1],
            fbank=batch.fbank[video : video + 1],
            targets=targets,
        )
        parts.append(loss_and_gradients(task, model, part))
    mean = {name: (parts[0][1][name] + parts[1][1][name]) / 2 for name in whole[1]}
    assert_same(((parts[0][0] + parts[1][0]) / 2, mean), whole)


def test_negatives_change_the_match_loss_and_no_answer():
    task = task_of()
    model = model_of(task).eval()
    batch = grouped_batch()
    other = replace(batch, targets=replace(batch.targets, negatives=batch.targets.negatives + 1))
    without = replace(batch, targets=replace(batch.targets, negatives=None))
    with torch.no_grad():
        first, second, third = model(batch), model(other), model(without)
    assert torch.equal(first["logits"], second["logits"])
    assert torch.equal(first["logits"], third["logits"])
    assert not torch.allclose(first["match_negative"], second["match_negative"])
    assert torch.equal(first["match_positive"], second["match_positive"])
    assert "match_negative" not in third
    assert torch.equal(task.loss(third, without), answer_loss(third["logits"], without.targets))


def test_no_gradient_reaches_the_backbone_through_negatives():
    task = task_of()
    model = model_of(task)
    loss_and_gradients(task, model, grouped_batch())
    assert all(p.grad is None for p in model.encoder.backbone.parameters())


def test_loss_is_answer_plus_half_match_by_hand():
    torch.manual_seed(0)
    logits, positive, negative = torch.randn(3, 5), torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    targets = QuestionTargets(
        video_index=torch.zeros(3, dtype=torch.int64),
        questions=torch.zeros(3, 14, dtype=torch.int64),
        answers=torch.tensor([2, -1, 0]),
    )
    batch = AVBatch(clip_ids=("a",), frames=None, fbank=None, targets=targets)
    outputs = {"logits": logits, "match_positive": positive, "match_negative": negative}
    answer = -(logits.log_softmax(-1)[0, 2] + logits.log_softmax(-1)[2, 0]) / 2
    match = -(positive.log_softmax(-1)[..., 1].mean() + negative.log_softmax(-1)[..., 0].mean()) / 2
    assert torch.allclose(task_of().loss(outputs, batch), answer + 0.5 * match)
    assert torch.allclose(match_loss(outputs, targets), match)


def test_look_weights_unit_vectors_by_their_similarity_to_the_sound():
    grounding = model_of(task_of("b_lavish")).head.grounding
    tokens, audio = torch.randn(3, 6, 8), torch.randn(3, 8)
    expected = []
    for frame, sound in zip(tokens, audio, strict=True):
        units = torch.stack([token / token.norm() for token in frame])
        weights = torch.softmax(torch.stack([unit @ (sound / sound.norm()) for unit in units]), dim=0)
        grounded = sum(weight * unit for weight, unit in zip(weights, units, strict=True))
        joined = torch.tanh(torch.cat([frame.mean(0), grounded]))
        expected.append(F.linear(joined, grounding.combine.weight, grounding.combine.bias))
    assert torch.allclose(grounding.look(tokens, audio), torch.stack(expected), atol=1e-5)


@pytest.mark.parametrize("branch", ["visual", "audio"])
def test_one_branch_answers_without_the_other_and_without_match_logits(branch):
    task = task_of(branches=branch, adapted_branches=branch)
    model = model_of(task)
    batch = grouped_batch()
    unused = "fbank" if branch == "visual" else "frames"
    outputs = model(replace(batch, **{unused: None}))
    assert outputs.keys() == {"logits"}
    changed = replace(batch, **{unused: getattr(batch, unused) + 1})
    assert torch.equal(model(changed)["logits"], outputs["logits"])
    assert model.head.role == "avqa_head"


def test_scores_of_repeated_question_ids_are_kept_apart():
    batch = grouped_batch()
    batch = replace(batch, targets=replace(batch.targets, question_ids=(7, 7, 7, 8, 8)))
    logits = F.one_hot(batch.targets.answers, 5).float()
    logits[1] = -logits[1]
    scores = task_of().per_clip({"logits": logits}, batch)
    assert {name: float(value["correct"]) for name, value in scores.items()} == {
        "a/7": 1.0,
        "a/7'": 0.0,
        "b/7": 1.0,
        "a/8": 1.0,
        "b/8": 1.0,
    }


def test_errors_for_a_larger_vocabulary_name_the_setting():
    model = model_of(task_of())
    batch = grouped_batch()
    with pytest.raises(ShardMismatchError, match=r"model.answer_head.num_words: 13"):
        model(replace(batch, targets=replace(batch.targets, num_words=13)))
    with pytest.raises(ShardMismatchError, match=r"model.answer_head.num_answers: 6"):
        model(replace(batch, targets=replace(batch.targets, num_answers=6)))


def test_models_that_cannot_answer_are_rejected():
    with pytest.raises(ConfigError, match=r"frozen backbone alone, which model\.adaptation\.method: full does not"):
        build_model(task_of(adaptation=FullFinetuning()), spec=SPEC, num_segments=S, device="meta")
    clip = CLIPSpec(
        name="tiny", image_size=32, patch_size=16, width=8, depths=(2,), num_heads=(2,), audio_size=(32, 32)
    )
    with pytest.raises(ConfigError, match=r"needs a path for frames .* and maps of visual tokens .* swin_base"):
        build_model(task_of(), spec=clip, num_segments=S)
    with pytest.raises(ConfigError, match="num_attention_heads: 3 must divide"):
        build_model(task_of(head=replace(HEAD, num_attention_heads=3)), spec=SPEC, num_segments=S)
