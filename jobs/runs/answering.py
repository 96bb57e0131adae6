"""Questions about any video, answered by a trained run: the video is decoded and encoded once for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from jobs.runs.config import with_shards
from jobs.runs.evaluation import read_config
from jobs.runs.folder import BEST, open_run
from pipelines.clips import ClipRef
from pipelines.config import PreprocessConfig
from pipelines.media.rows import video_row
from pipelines.storage import Storage
from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.data.images import resize_bicubic
from stgcma.data.manifest import ShardManifest, select_manifest
from stgcma.data.question_text import VIDEO_SPLIT, QuestionVocabulary, free_question_words
from stgcma.data.reader import ReadContext
from stgcma.data.schema import ClipRow
from stgcma.data.store import ShardStore
from stgcma.errors import ConfigError
from stgcma.models.backbones import backbone_spec
from stgcma.tasks import build_model, build_task
from stgcma.training.checkpoint import decode, load_weights
from stgcma.training.engine import resolve_device

DECODING = ("short_side", "channel_mode", "resample", "gain", "frame_encoding", "jpeg_quality", "fbank_dtype")
"""Preprocessing settings that a new video must share with the training videos."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One question and its most probable answers, the best first."""

    question: str
    answers: tuple[tuple[str, float], ...]
    """(answer, probability)."""


def ask(
    run: str, video: Path, questions: list[str], *, shards: str | None = None, device: str = "auto", top: int = 3
) -> list[Answer]:
    """Answer questions about one video file with the selected weights of a run.

    Args:
        run: Run folder of task ``avqa``.
        video: Any video file with sound.
        questions: In the words of the training questions.
        shards: Where the run's shards lie, for vocabularies and fbank statistics; None: where it was trained.
        device: ``auto``, ``cpu`` or ``cuda``.
        top: Answers per question.

    Raises:
        ConfigError: If the run answers no questions, or a question has words that no training question has.
        ClipDecodeError: If the video cannot be decoded; names stage and reason.
        ShardMismatchError: If the shards of the run are not there.
    """
    folder = open_run(run)
    config = with_shards(read_config(folder), shards)
    if config.task != "avqa":
        raise ConfigError(f"{run} is a run of task {config.task}; only runs of task avqa answer questions.")
    spec = backbone_spec(config.model.backbone)
    manifest = select_manifest(
        config.data.shards,
        config.data.dataset,
        fbank=spec.fbank_for(config.task),
        fingerprint=config.data.fingerprint,
    )
    vocabulary = QuestionVocabulary(words=manifest.question_words, answers=manifest.class_names)
    ids = [vocabulary.encode(free_question_words(question)) for question in questions]
    context = ReadContext(
        data=config.data,
        task=config.task,
        spec=spec,
        store=ShardStore(config.data.shards, manifest),
        split=VIDEO_SPLIT,
        train=False,
        seed=config.optim.seed,
        branches=config.model.adaptation.running,
    )
    row = _decode(video, manifest, context.fbank.name)
    batch = AVBatch(
        clip_ids=(video.stem,),
        frames=resize_bicubic(context.decode_frames(row), spec.image_size, *context.image_mean_std).unsqueeze(0)
        if context.reads_frames
        else None,
        fbank=context.stored_fbank(row).unsqueeze(0) if context.reads_audio else None,
        targets=QuestionTargets(
            video_index=torch.zeros(len(ids), dtype=torch.int64),
            questions=torch.tensor(ids),
            answers=torch.full((len(ids),), -1),
        ),
    )
    torch.manual_seed(config.optim.seed)
    where = resolve_device(device)
    model = build_model(build_task(config.task, replace(config.model, grounding_checkpoint=None))).to(where)
    tensors, _ = decode(folder.read(BEST), f"{folder.uri}/{BEST}")
    load_weights(model, tensors)
    with torch.no_grad():
        logits = model.eval()(batch.to(where))["logits"].float().cpu()
    probabilities = logits[:, : len(vocabulary.answers)].softmax(-1)
    best, index = probabilities.topk(min(top, len(vocabulary.answers)), dim=-1)
    return [
        Answer(question=q, answers=tuple((vocabulary.answers[i], p) for i, p in zip(row_i, row_p, strict=True)))
        for q, row_i, row_p in zip(questions, index.tolist(), best.tolist(), strict=True)
    ]


def _decode(video: Path, manifest: ShardManifest, fbank: str) -> ClipRow:
    """The video as a row, with the settings that the training videos were decoded with."""
    path = video.expanduser().resolve()
    settings = {name: manifest.settings[name] for name in DECODING if name in manifest.settings}
    config = PreprocessConfig(dataset=manifest.dataset, source=str(path.parent), fbank_specs=(fbank,), **settings)
    ref = ClipRef(
        dataset=manifest.dataset,
        clip_id=path.stem,
        split=VIDEO_SPLIT,
        video_id=path.stem,
        media_uri=path.name,
        media_bytes=path.stat().st_size if path.exists() else None,
        counts_in_stats=False,
    )
    segments = manifest.metadata.num_segments
    return video_row(ref, Storage(str(path.parent)), config, num_segments=segments, with_waveform=False)
