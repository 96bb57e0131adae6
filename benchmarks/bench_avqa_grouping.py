"""(e) A question-answering step that encodes each video once, against the published loop that encodes it per question.

Both use the same questions and negative frames and must give the same loss and gradients. The published loop takes two
questions per step; here its gradients are accumulated, so that the sums can be compared. Five questions per video is
the average of MUSIC-AVQA (45,867 questions about 9,288 videos). ``--questions FOLDER`` prints the encodes per question
of an epoch over official json files.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import Comparison, Variant, compare
from stgcma.backbone_spec import BackboneSpec
from stgcma.config import AnswerHeadConfig, ModelConfig
from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.data.question_text import MAX_WORDS, Question, parse_questions
from stgcma.models.adaptations import STGCMA
from stgcma.models.backbones import backbone_spec
from stgcma.models.parameters import trainable_parameters
from stgcma.tasks import build_model, build_task
from stgcma.tasks.base import AudioVisualModel, Task

VIDEOS, QUESTIONS, SEGMENTS = 2, 5, 10
PUBLISHED_BATCH = 2
TARGET_ENCODES = 0.25
"""Largest number of encodes per question."""


@dataclass
class EncodeCounter:
    """Counts the clips through the adapted encoder and the frames through the plain frozen backbone."""

    clips: int = 0
    plain_frames: int = 0
    questions: int = 0
    handles: list = field(default_factory=list)

    def watch(self, model: AudioVisualModel) -> None:
        """Start counting the passes of a model."""

        def adapted(_module: object, _inputs: object, features: object) -> None:
            self.clips += len(features.tokens["visual"])  # type: ignore[attr-defined]

        plain = model.head.plain_visual

        def counted(frames: Tensor) -> Tensor:
            self.plain_frames += len(frames)
            return plain(frames)

        self.handles.append(model.encoder.register_forward_hook(adapted))
        model.head.plain_visual = counted

    @property
    def per_question(self) -> float:
        return self.clips / self.questions

    @property
    def plain_clips_per_question(self) -> float:
        """Negative frames per question, in clips of ten frames: forward only, one modality, no adapters."""
        return self.plain_frames / SEGMENTS / self.questions


def build(spec: BackboneSpec) -> tuple[Task, AudioVisualModel]:
    """Variant L on a small Swin without dropout and stochastic depth, so that both ways can be compared."""
    config = ModelConfig(
        backbone=spec.name,
        pretrained="none",
        adaptation=STGCMA(size=None, bottleneck_ratios=(0.25,)),
        drop_path_rate=0.0,
        avqa_variant="l",
        answer_head=AnswerHeadConfig(dropout=0.0),
    )
    torch.manual_seed(0)
    task = build_task("avqa", config)
    model = build_model(task, spec=spec, num_segments=SEGMENTS).train()
    for parameter in trainable_parameters(model).values():
        torch.nn.init.normal_(parameter, std=0.05)
    return task, model


def make_batch(spec: BackboneSpec) -> AVBatch:
    """Two videos with five questions each. The negatives are frames of the other video."""
    generator = torch.Generator().manual_seed(1)
    count, size = VIDEOS * QUESTIONS, spec.image_size
    video = torch.arange(VIDEOS).repeat_interleave(QUESTIONS)
    other = (1 - video).unsqueeze(1).expand(-1, SEGMENTS)
    second = torch.randint(SEGMENTS, (count, SEGMENTS), generator=generator)
    return AVBatch(
        clip_ids=tuple(f"video{k}" for k in range(VIDEOS)),
        frames=torch.randn(VIDEOS, SEGMENTS, 3, size, size, generator=generator),
        fbank=torch.randn(VIDEOS, SEGMENTS, *spec.audio_size, generator=generator),
        targets=QuestionTargets(
            video_index=video,
            questions=torch.randint(1, 93, (count, MAX_WORDS), generator=generator),
            answers=torch.randint(42, (count,), generator=generator),
            negative_index=torch.stack([other, second], dim=-1),
        ),
    )


def with_stored_negatives(batch: AVBatch) -> AVBatch:
    """The batch with its negatives as separate frames, as if they were drawn from all videos."""
    targets = batch.targets
    assert isinstance(targets, QuestionTargets)
    assert targets.negative_index is not None
    assert batch.frames is not None
    video, second = targets.negative_index.unbind(-1)
    return replace(batch, targets=replace(targets, negatives=batch.frames[video, second], negative_index=None))


def published_batches(batch: AVBatch) -> list[AVBatch]:
    """Batches of two questions, each with its own copy of its video."""
    whole = with_stored_negatives(batch)
    targets = whole.targets
    assert isinstance(targets, QuestionTargets)
    assert targets.negatives is not None
    assert whole.frames is not None
    assert whole.fbank is not None
    parts = []
    for start in range(0, len(targets.answers), PUBLISHED_BATCH):
        rows = slice(start, start + PUBLISHED_BATCH)
        videos = targets.video_index[rows]
        parts.append(
            AVBatch(
                clip_ids=tuple(f"question{start + k}" for k in range(len(videos))),
                frames=whole.frames[videos],
                fbank=whole.fbank[videos],
                targets=QuestionTargets(
                    video_index=torch.arange(len(videos)),
                    questions=targets.questions[rows],
                    answers=targets.answers[rows],
                    negatives=targets.negatives[rows],
                    loss_questions=len(targets.answers),
                ),
            )
        )
    return parts


def step(task: Task, model: AudioVisualModel, batches: list[AVBatch]) -> dict[str, Tensor]:
    """Loss and gradients by name, accumulated over the batches."""
    model.zero_grad(set_to_none=True)
    total = torch.zeros(())
    for batch in batches:
        loss = task.loss(model(batch), batch)
        loss.backward()
        total += loss.detach()
    gradients = {name: p.grad for name, p in trainable_parameters(model).items() if p.grad is not None}
    return {"loss": total, **gradients}


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    """A line that says how equal two steps are.

    Raises:
        AssertionError: If they differ.
    """
    if ours.keys() != theirs.keys():
        raise AssertionError(f"gradients of other parameters: {ours.keys() ^ theirs.keys()}")
    scale = torch.cat([value.flatten() for value in theirs.values()]).norm()
    worst = max(((ours[name] - theirs[name]).norm() / (theirs[name].norm() + 1e-6 * scale)).item() for name in theirs)
    if worst > 1e-2:
        raise AssertionError(f"loss or gradients differ by {worst:.1e} (relative L2)")
    return f"loss and gradients equal to {worst:.0e}"


def count_encodes(task: Task, spec: BackboneSpec, batches: list[AVBatch]) -> EncodeCounter:
    """Count the encodes of a step over the batches."""
    _, model = build(spec)
    counter = EncodeCounter(questions=sum(len(batch.targets.answers) for batch in batches))  # type: ignore[union-attr]
    counter.watch(model)
    step(task, model, batches)
    return counter


def run(rounds: int = 5, spec: BackboneSpec | None = None) -> Comparison:
    """Compare the grouped step, with negatives from the batch or separate, with the published loop."""
    spec = spec or backbone_spec("swin_demo")
    task, model = build(spec)
    batch = make_batch(spec)
    stored, published = with_stored_negatives(batch), published_batches(batch)
    ways = {
        "each video once, negatives from the batch": [batch],
        "each video once, separate negatives": [stored],
        "a video per question (published)": published,
    }
    counters = {name: count_encodes(task, spec, batches) for name, batches in ways.items()}
    comparison = compare(
        title=f"question answering, {VIDEOS} videos x {QUESTIONS} questions, forward + backward, {spec.name}, fp32",
        variants=[Variant(name, lambda batches=batches: step(task, model, batches)) for name, batches in ways.items()],
        rounds=rounds,
        check=equal,
        units=VIDEOS * QUESTIONS,
    )
    lines = [
        f"{name}: {counter.per_question:.2f} encodes and {counter.plain_clips_per_question:.2f} plain frozen clips "
        "per question"
        for name, counter in counters.items()
    ]
    ours = counters[next(iter(ways))].per_question
    verdict = "reached" if ours <= TARGET_ENCODES else "MISSED"
    lines.append(f"encodes per question {ours:.2f}, target <= {TARGET_ENCODES:g}: {verdict}")
    return replace(comparison, equality="\n  ".join([comparison.equality, *lines]))


def epoch_encodes(questions: list[Question]) -> float:
    """Encodes per question if all questions of a video are in one step: the minimum for these files."""
    return len({question.video_id for question in questions}) / len(questions)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=Path, help="folder with avqa-*.json")
    arguments = parser.parse_args()
    print(run(arguments.rounds).table())
    for file in sorted(arguments.questions.glob("avqa-*.json")) if arguments.questions else []:
        found = parse_questions(file.read_text(encoding="utf-8"), str(file))
        print(f"  {file.name}: {len(found)} questions, {epoch_encodes(found):.3f} encodes per question in an epoch")
