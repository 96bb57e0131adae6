"""MUSIC-AVQA: one unit is a video with the questions it answers in that step (method sections 5, 6).

Shards hold one row a video (split ``videos``) and serve all splits of questions; questions are joined here, from
``<fingerprint>/questions/<split>.parquet`` or from official json files (``data.questions``). An epoch shows every
training question once, grouped by video; ``optim.batch_size`` counts videos, or parts of a video's questions where
``data.questions_per_video`` caps them.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import torch
from torch import Tensor

from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.data.images import decode_frames, resize_bicubic
from stgcma.data.manifest import open_filesystem
from stgcma.data.question_text import (
    MAX_WORDS,
    QUESTION_FOLDER,
    VIDEO_SPLIT,
    Question,
    QuestionVocabulary,
    parse_questions,
    questions_from_table,
)
from stgcma.data.reader import FRAME_COLUMNS, ReadContext, Reader, stack
from stgcma.data.sampler import Unit, epoch_order
from stgcma.errors import ConfigError, ShardMismatchError

logger = logging.getLogger(__name__)

NEGATIVE_STREAM = 2
"""Random stream of the negative frames, beside the two augmentation streams of ``reader.py``."""


@dataclass(frozen=True, kw_only=True)
class QuestionExample:
    """One unit. ``frames [S, 3, N, N]``, ``fbank [S, T, F]`` (None where not read), ``q`` questions of the video.

    ``questions [q, 14]`` int64, ``answers [q]`` int64, ``negatives [q, S, 3, N, N]`` or None.
    """

    unit: Unit
    clip_id: str
    frames: Tensor | None
    fbank: Tensor | None
    questions: Tensor
    answers: Tensor
    types: tuple[tuple[str, str], ...]
    question_ids: tuple[int, ...]
    negatives: Tensor | None


@dataclass(frozen=True, kw_only=True)
class _VideoQuestions:
    number: int
    """Of the video among the rows."""
    questions: tuple[Question, ...]


class QuestionReader(Reader):
    """Videos with their questions. Nothing is augmented, as published; negatives are drawn in training only."""

    only_matches: ClassVar[bool] = False
    """Whether sound is only matched with frames: one question a video, which nobody answers, and negatives always."""

    def __init__(self, context: ReadContext) -> None:
        super().__init__(context)
        manifest, data = context.manifest, context.data
        self.vocabulary = QuestionVocabulary(words=manifest.question_words, answers=manifest.class_names)
        self._answers = {answer: index for index, answer in enumerate(self.vocabulary.answers)}
        self._words = {word: index for index, word in enumerate(self.vocabulary.words)}
        self.draws_negatives = (context.train or self.only_matches) and len(context.branches) == 2
        self.units = self._plan_units(read_questions(context.store.uri, data.questions, context.split))
        self._videos = sorted({unit.number for unit in self.units})
        if self.draws_negatives:
            self._check_negatives()

    @property
    def num_units(self) -> int:
        return len(self.units)

    @property
    def num_questions(self) -> int:
        """Questions of the split that have a video."""
        return sum(len(unit.questions) for unit in self.units)

    def example(self, unit: Unit) -> QuestionExample:
        context, planned = self.context, self.units[unit[1]]
        columns: tuple[str, ...] = ("clip_id",)
        columns += FRAME_COLUMNS if context.reads_frames else ()
        columns += context.fbank_columns if context.reads_audio else ()
        row = context.row(planned.number, columns, split=VIDEO_SPLIT)
        frames = None
        if context.reads_frames:
            frames = resize_bicubic(context.decode_frames(row), context.spec.image_size, *context.image_mean_std)
        stored_negatives = self.draws_negatives and context.data.negatives == "stored"
        return QuestionExample(
            unit=unit,
            clip_id=row.clip_id,
            frames=frames,
            fbank=context.stored_fbank(row) if context.reads_audio else None,
            questions=torch.tensor([self._encode(question.words) for question in planned.questions]),
            answers=torch.tensor([self._answers.get(question.answer, -1) for question in planned.questions]),
            types=tuple(question.type for question in planned.questions),
            question_ids=tuple(question.question_id for question in planned.questions),
            negatives=self._stored_negatives(unit, planned) if stored_negatives else None,
        )

    def collate(self, examples: list[QuestionExample]) -> AVBatch:
        counts = torch.tensor([len(example.question_ids) for example in examples])
        negatives = [example.negatives for example in examples if example.negatives is not None]
        targets = QuestionTargets(
            video_index=torch.repeat_interleave(torch.arange(len(examples)), counts),
            questions=torch.cat([example.questions for example in examples]),
            answers=torch.cat([example.answers for example in examples]),
            negatives=torch.cat(negatives) if negatives else None,
            negative_index=self._batch_negatives(examples),
            types=tuple(kind for example in examples for kind in example.types),
            question_ids=tuple(number for example in examples for number in example.question_ids),
            num_words=len(self.vocabulary.words),
            num_answers=len(self.vocabulary.answers),
            loss_questions=self._questions_of_step(examples[0].unit) if self.context.train else None,
        )
        return AVBatch(
            clip_ids=tuple(example.clip_id for example in examples),
            frames=stack([example.frames for example in examples]),
            fbank=stack([example.fbank for example in examples]),
            targets=targets,
        )

    def _plan_units(self, questions: Sequence[Question]) -> list[_VideoQuestions]:
        """Group by video, in the order of the rows; report what cannot be asked."""
        context, data = self.context, self.context.data
        numbers = {clip_id: number for number, clip_id in enumerate(context.store.clip_ids(VIDEO_SPLIT))}
        of_video: dict[int, list[Question]] = defaultdict(list)
        missing, unknown = [], []
        for question in questions:
            if question.video_id not in numbers:
                missing.append(question.video_id)
            elif context.train and question.answer not in self._answers:
                unknown.append(question.answer)
            else:
                of_video[numbers[question.video_id]].append(question)
        if missing:
            logger.warning(
                "%d of %d %s questions are left out: their %d videos are not in the shards, e.g. %s",
                len(missing),
                len(questions),
                context.split,
                len(set(missing)),
                ", ".join(sorted(set(missing))[:5]),
            )
        if unknown:
            logger.warning(
                "%d training questions are left out: their answers (%s) are not in the vocabulary of the shards",
                len(unknown),
                ", ".join(sorted(set(unknown))[:5]),
            )
        self._report_unknown_words(question for group in of_video.values() for question in group)
        videos = sorted(of_video)
        if context.train and data.limit_train_clips is not None:
            videos = videos[: data.limit_train_clips]
        if not videos:
            raise ShardMismatchError(
                f"None of the {len(questions)} {context.split} questions is about a video in {context.store.uri}. "
                "Preprocess the videos of these questions, or set data.questions to the questions of these videos."
            )
        units = []
        for number in videos:
            group = of_video[number][:1] if self.only_matches else of_video[number]
            step = data.questions_per_video or len(group)
            units += [
                _VideoQuestions(number=number, questions=tuple(group[i : i + step])) for i in range(0, len(group), step)
            ]
        return units

    def _report_unknown_words(self, questions: Iterable[Question]) -> None:
        found = {question.question_id: set(question.words) - self._words.keys() for question in questions}
        found = {number: words for number, words in found.items() if words}
        if not found:
            return
        words = ", ".join(sorted(set().union(*found.values()))[:10])
        if self.context.train:
            raise ShardMismatchError(
                f"{len(found)} training questions have words that the vocabulary of {self.context.store.uri} lacks "
                f"({words}). It was built from another training file; preprocess again with this one."
            )
        logger.warning(
            "%d %s questions have words that no training question has (%s); the model reads them as padding",
            len(found),
            self.context.split,
            words,
        )

    def _encode(self, words: Sequence[str]) -> list[int]:
        return [self._words.get(word, 0) for word in words] + [0] * (MAX_WORDS - len(words))

    def _check_negatives(self) -> None:
        context, data = self.context, self.context.data
        if len(self._videos) < 2:
            raise ConfigError(f"The match loss needs frames of another video, but there is only 1 in {context.split}.")
        if data.negatives == "batch":
            if self.only_matches:
                raise ConfigError("data.negatives: batch serves task avqa; set negatives: stored for task grounding.")
            if data.questions_per_video is not None:
                raise ConfigError(
                    "data.negatives: batch takes negatives from the other videos of the batch, and with "
                    "data.questions_per_video there may be none. Unset questions_per_video, or set negatives: stored."
                )
            if context.global_batch // context.world_size < 2:
                raise ConfigError(
                    "data.negatives: batch takes negatives from the other videos of a worker's batch and needs at "
                    f"least 2 videos there, got optim.batch_size: {context.global_batch} over {context.world_size} "
                    "workers. "
                    "Raise optim.batch_size, or set data.negatives: stored."
                )

    def _stored_negatives(self, unit: Unit, planned: _VideoQuestions) -> Tensor:
        """``[q, S, 3, N, N]``: for every question and second a frame of any other video of the split, both uniform.

        The frame is one of the 60-frame grid where preprocessing kept it, else one of the ``S`` stored ones.
        """
        context, metadata = self.context, self.context.manifest.metadata
        column = "extra_frames" if metadata.stores_extra_frames else "frames"
        rng = context.rng(unit, NEGATIVE_STREAM)
        own = bisect_left(self._videos, planned.number)
        shape = (len(planned.questions), metadata.num_segments)
        videos = (own + rng.integers(1, len(self._videos), shape)) % len(self._videos)
        places = rng.random(shape)
        size = context.spec.image_size
        out = torch.empty(*shape, 3, size, size)
        for index in np.ndindex(*shape):
            row = context.row(self._videos[videos[index]], (column, "frame_height", "frame_width"), split=VIDEO_SPLIT)
            grid: Sequence[bytes] = getattr(row, column)
            frame = grid[int(places[index] * len(grid))]
            decoded = decode_frames([frame], metadata.frame_encoding, row.frame_height, row.frame_width)
            out[index] = resize_bicubic(decoded, size, *context.image_mean_std)[0]
        return out

    def _batch_negatives(self, examples: Sequence[QuestionExample]) -> Tensor | None:
        """``[Q, S, 2]`` (video of this batch, second): for every question and second a frame of another video."""
        if not (self.draws_negatives and self.context.data.negatives == "batch"):
            return None
        segments, count = self.context.manifest.metadata.num_segments, len(examples)
        parts = []
        for own, example in enumerate(examples):
            rng = self.context.rng(example.unit, NEGATIVE_STREAM)
            shape = (len(example.question_ids), segments)
            videos = (own + rng.integers(1, count, shape)) % count
            parts.append(np.stack([videos, rng.integers(0, segments, shape)], axis=-1))
        return torch.from_numpy(np.concatenate(parts))

    def _questions_of_step(self, unit: Unit) -> float:
        """Questions of the whole step that ``unit`` belongs to, over the number of workers."""
        epoch, number = unit
        batch, world = self.context.global_batch, self.context.world_size
        order, position = _epoch_positions(self.num_units, self.context.seed, epoch)
        start = position[number] // batch * batch
        return sum(len(self.units[i].questions) for i in order[start : start + batch]) / world


class MatchReader(QuestionReader):
    """The same videos for grounding pre-training."""

    only_matches: ClassVar[bool] = True


@lru_cache(maxsize=4)
def _epoch_positions(num_units: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The order of an epoch and its inverse."""
    order = epoch_order(num_units, seed, epoch)
    return order, np.argsort(order)


def read_questions(uri: str, folder: str | None, split: str) -> list[Question]:
    """Questions of one split: what preprocessing stored beside the shards, or the official json of ``folder``.

    Args:
        uri: Of the preprocessed dataset, ``<shards>/<dataset>/<fingerprint>``.
        folder: Directory or URI with ``avqa-<split>.json``; None reads the stored ones.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ShardMismatchError: If preprocessing stored no questions of the split.
        ConfigError: If ``folder`` has no file of the split.
        DatasetLayoutError: If that file is malformed.
    """
    if folder is not None:
        filesystem, path = open_filesystem(folder)
        file = f"{path}/avqa-{split}.json"
        if filesystem.get_file_info(file).type != pafs.FileType.File:
            raise ConfigError(f"data.questions: {folder} has no avqa-{split}.json. Name the folder of the json files.")
        with filesystem.open_input_stream(file) as stream:
            return parse_questions(stream.read().decode("utf-8-sig"), f"{folder}/avqa-{split}.json")
    filesystem, path = open_filesystem(uri)
    file = f"{path}/{QUESTION_FOLDER}/{split}.parquet"
    if filesystem.get_file_info(file).type != pafs.FileType.File:
        raise ShardMismatchError(
            f"{uri} stores no {split!r} questions (its source had no avqa-{split}.json). Set data.questions to a "
            "folder that has this file, or preprocess again with it in place."
        )
    with filesystem.open_input_file(file) as stream:
        return questions_from_table(pq.read_table(stream))
