"""Answers questions about any video with a trained run. The video is decoded and encoded once for all questions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines.clips import ClipRef
from pipelines.config import PreprocessConfig
from pipelines.media.rows import video_row
from pipelines.storage import Storage
from stgcma.backbone_spec import BackboneSpec
from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.data.fbank import normalize_fbank
from stgcma.data.images import decode_frames, resize_bicubic
from stgcma.data.question_text import VIDEO_SPLIT, QuestionVocabulary, free_question_words
from stgcma.data.schema import ClipRow
from stgcma.errors import ConfigError
from stgcma.tasks import TASKS
from stgcma.training.engine import resolve_device
from stgcma.training.trained_model import ModelInfo, load


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One question and its most probable answers, best first."""

    question: str
    answers: tuple[tuple[str, float], ...]
    """(answer, probability)."""


def ask(run: str, video: Path, questions: list[str], *, device: str = "auto", top: int = 3) -> list[Answer]:
    """Answer questions about one video file with trained weights.

    Args:
        run: Run folder or weight file of a task that answers questions.
        video: Any video file with sound.
        questions: Questions worded like the training questions.
        device: ``auto``, ``cpu`` or ``cuda``.
        top: Number of answers per question.

    Raises:
        CheckpointError: If there are no weights, or they do not fit the backbone.
        ConfigError: If the model does not answer questions, or a question has words that no training question has.
        ClipDecodeError: If the video cannot be decoded; names stage and reason.
    """
    where = resolve_device(device)
    trained = load(run, device=where)
    info = trained.info
    if trained.task.spec.unit != "questions":
        answering = ", ".join(name for name, task in TASKS.items() if task.unit == "questions")
        raise ConfigError(f"{run} needs to be a run of task {answering}, got task {info.task}.")
    vocabulary = QuestionVocabulary(words=info.question_words, answers=info.class_names)
    ids = [vocabulary.encode(free_question_words(question)) for question in questions]
    path = video.expanduser().resolve()
    settings = PreprocessConfig(
        dataset=info.dataset,
        source=str(path.parent),
        fbank_specs=() if info.fbank is None else (info.fbank.name,),
        **info.decoding,
    )
    row = _decode(path, settings, trained.task.spec.num_segments)
    batch = AVBatch(
        clip_ids=(video.stem,),
        frames=_frames(row, info, settings, trained.model.encoder.spec),
        fbank=_fbank(row, info),
        targets=QuestionTargets(
            video_index=torch.zeros(len(ids), dtype=torch.int64),
            questions=torch.tensor(ids),
            answers=torch.full((len(ids),), -1),
        ),
    )
    with torch.no_grad():
        logits = trained.model(batch.to(where))["logits"].float().cpu()
    probabilities = logits[:, : len(vocabulary.answers)].softmax(-1)
    best, index = probabilities.topk(min(top, len(vocabulary.answers)), dim=-1)
    return [
        Answer(question=q, answers=tuple((vocabulary.answers[i], p) for i, p in zip(row_i, row_p, strict=True)))
        for q, row_i, row_p in zip(questions, index.tolist(), best.tolist(), strict=True)
    ]


def _frames(row: ClipRow, info: ModelInfo, settings: PreprocessConfig, spec: BackboneSpec) -> Tensor | None:
    """Frames ``[1, S, 3, N, N]`` as evaluation reads them; None for an audio-only model."""
    if "visual" not in info.model.adaptation.running:
        return None
    frames = decode_frames(row.frames, settings.frame_encoding, row.frame_height, row.frame_width)
    return resize_bicubic(frames, spec.image_size, spec.image_mean, spec.image_std).unsqueeze(0)


def _fbank(row: ClipRow, info: ModelInfo) -> Tensor | None:
    """Filter bank ``[1, S, T, F]`` normalised as in training; None for a visual-only model."""
    if info.fbank is None:
        return None
    values = torch.from_numpy(row.fbanks[info.fbank.name].astype(np.float32))
    return normalize_fbank(values, row.fbank_frames[info.fbank.name], info.fbank.mean, info.fbank.std).unsqueeze(0)


def _decode(path: Path, settings: PreprocessConfig, num_segments: int) -> ClipRow:
    """Decode the video into a row with the settings of the training videos."""
    ref = ClipRef(
        dataset=settings.dataset,
        clip_id=path.stem,
        split=VIDEO_SPLIT,
        video_id=path.stem,
        media_uri=path.name,
        media_bytes=path.stat().st_size if path.exists() else None,
        counts_in_stats=False,
    )
    return video_row(ref, Storage(settings.source), settings, num_segments=num_segments, with_waveform=False)
