"""Reader of MUSIC-AVQA: a unit is one video with the questions about it in a step (method sections 5, 6).

Shards hold one row per video (split ``videos``) and serve all splits of the questions. The reader adds the questions
from ``<fingerprint>/questions/<split>.parquet`` or from official json files (``data.questions``). An epoch gives every
training question once, grouped by video. ``optim.batch_size`` counts units: videos, or parts of a video's questions if
``data.questions_per_video`` limits them.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pyarrow.fs as pafs
import torch
from torch import Tensor

from stgcma.data.batch import AVBatch, QuestionTargets
from stgcma.data.images import decode_frames, resize_bicubic
from stgcma.data.manifest import open_filesystem
from stgcma.data.question_table import questions_from_table
from stgcma.data.question_text import (
    MAX_WORDS,
    QUESTION_FOLDER,
    VIDEO_SPLIT,
    Question,
    QuestionVocabulary,
    parse_questions,
)
from stgcma.data.reader import FRAME_COLUMNS, ReadContext, Reader, stack
from stgcma.data.sampler import Unit, epoch_order
from stgcma.data.side_table import read_table
from stgcma.errors import ConfigError, ShardMismatchError

logger = logging.getLogger(__name__)

NEGATIVE_STREAM = 2
"""Random stream of the negative frames. ``reader.py`` has the two streams of the augmentation."""


@dataclass(frozen=True, kw_only=True)
class QuestionExample:
    """One unit: a video and ``q`` questions about it. A modality that is not read is None."""

    unit: Unit
    clip_id: str
    frames: Tensor | None
    """``[S, 3, N, N]`` float32."""
    fbank: Tensor | None
    """``[S, T, F]`` float32."""
    questions: Tensor
    """``[q, 14]`` int64 word ids."""
    answers: Tensor
    """``[q]`` int64; -1 if the answer is not in the vocabulary."""
    types: tuple[tuple[str, str], ...]
    question_ids: tuple[int, ...]
    negatives: Tensor | None
    """``[q, S, 3, N, N]`` float32."""


@dataclass(frozen=True, kw_only=True)
class _VideoQuestions:
    number: int
    """Number of the video among the rows."""
    questions: tuple[Question, ...]


class QuestionReader(Reader):
    """Reads videos with their questions. Nothing is augmented, as published. Negatives are drawn in training only.

    Raises:
        ShardMismatchError: If no question is about a stored video, or training questions have unknown words.
        ConfigError: If negatives are needed but the settings leave no other video for them.
    """

    only_matches: ClassVar[bool] = False
    """Whether the task only matches sound with frames. Then a video has one question, which is not answered, and
    negatives are drawn in evaluation too."""

    def __init__(self, context: ReadContext) -> None:
        super().__init__(context)
        manifest, data = context.manifest, context.data
        self.vocabulary = QuestionVocabulary(words=manifest.question_words, answers=manifest.class_names)
        self._answers = {answer: index for index, answer in enumerate(self.vocabulary.answers)}
        self._words = {word: index for index, word in enumerate(self.vocabulary.words)}
        self.draws_negatives = (context.train or self.only_matches) and len(context.branches) == 2
        self.units = self._plan_units(read_questions(context.store.uri, manifest.tables, data.questions, context.split))
        self._videos = sorted({unit.number for unit in self.units})
        if self.draws_negatives:
            self._check_negatives()

    @property
    def num_units(self) -> int:
        return len(self.units)

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
        """Group the questions by video, in the order of the rows. Log the questions that are left out."""
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
                f"({words}). The vocabulary was built from another training file. Preprocess again with this one."
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
                raise ConfigError(
                    "data.negatives: batch works for avqa only. Set data.negatives: stored for task grounding."
                )
            if data.questions_per_video is not None:
                raise ConfigError(
                    "data.negatives: batch takes negatives from the other videos of the batch. With "
                    "data.questions_per_video a batch may hold only one video. Unset data.questions_per_video, or set "
                    "data.negatives: stored."
                )
            if context.global_batch // context.world_size < 2:
                raise ConfigError(
                    "data.negatives: batch takes negatives from the other videos of a worker's batch and needs at "
                    f"least 2 videos there, got optim.batch_size: {context.global_batch} over {context.world_size} "
                    "workers. Raise optim.batch_size, or set data.negatives: stored."
                )

    def _stored_negatives(self, unit: Unit, planned: _VideoQuestions) -> Tensor:
        """``[q, S, 3, N, N]``: for every question and segment, a frame of any other video of the split.

        Video and frame are drawn uniformly. The frame comes from the 60-frame grid if preprocessing kept it, otherwise
        from the ``S`` stored frames.
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
        """``[Q, S, 2]`` (video of this batch, segment): for every question and segment, a frame of another video."""
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
        """Number of questions in the whole step of ``unit``, divided by the number of workers."""
        epoch, number = unit
        batch, world = self.context.global_batch, self.context.world_size
        order, position = _epoch_positions(self.num_units, self.context.seed, epoch)
        start = position[number] // batch * batch
        return sum(len(self.units[i].questions) for i in order[start : start + batch]) / world


class MatchReader(QuestionReader):
    """Reads the same videos for grounding pre-training."""

    only_matches: ClassVar[bool] = True


@lru_cache(maxsize=4)
def _epoch_positions(num_units: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The permutation of an epoch and its inverse, ``[num_units]`` each."""
    order = epoch_order(num_units, seed, epoch)
    return order, np.argsort(order)


def read_questions(uri: str, tables: Mapping[str, str], folder: str | None, split: str) -> list[Question]:
    """Questions of one split, from the official json in ``folder`` or as preprocessing stored them.

    Args:
        uri: Preprocessed dataset, ``<shards>/<dataset>/<fingerprint>``.
        tables: ``ShardManifest.tables`` of it.
        folder: Directory or URI with ``avqa-<split>.json``; None: read the stored questions.
        split: ``train``, ``val`` or ``test``.

    Raises:
        ShardMismatchError: If preprocessing stored no questions for the split, or they are damaged.
        ConfigError: If ``folder`` has no file for the split.
        DatasetLayoutError: If that file is malformed.
    """
    if folder is not None:
        filesystem, path = open_filesystem(folder)
        file = f"{path}/avqa-{split}.json"
        if filesystem.get_file_info(file).type != pafs.FileType.File:
            raise ConfigError(f"data.questions: {folder} has no avqa-{split}.json. Give the folder of the json files.")
        with filesystem.open_input_stream(file) as stream:
            return parse_questions(stream.read().decode("utf-8-sig"), f"{folder}/avqa-{split}.json")
    name = f"{QUESTION_FOLDER}/{split}.parquet"
    if name not in tables:
        raise ShardMismatchError(
            f"{uri} stores no {split!r} questions, because its source had no avqa-{split}.json. Set data.questions to "
            "a folder that has this file, or add the file to the source and preprocess again."
        )
    filesystem, path = open_filesystem(uri)
    return questions_from_table(read_table(filesystem, f"{path}/{name}", tables[name], f"{uri}/{name}"))
