"""MUSIC-AVQA (Li et al., CVPR 2022): 45,867 questions about 9,288 one-minute music videos.

    <source>/json/avqa-{train,val,test}.json           or json_update/, chosen by --questions
    <source>/<any folder>/<video_id>.mp4               or .mkv, ...; all in one folder, or in the official two:
    <source>/MUSIC-AVQA-videos-Real/, MUSIC-AVQA-videos-Synthetic/

``json`` may also be in ``data/`` or ``MUSIC-AVQA/data/``, as in the official repository. The splits divide the
questions and share videos. So every video with a question becomes one row of the split ``videos`` and is decoded once.
The questions are stored beside the shards in ``questions/<split>.parquet``; readers join them to the rows.

A video shorter than a minute is divided into ten segments over its own length, as in the reference. Of a longer video,
up to 90 s, the first minute is used. A video without sound is a failure. Losing a video loses its questions, so the
failure budget counts questions by split.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pipelines.clips import ClipListing, ClipRef
from pipelines.datasets.base import DatasetSource
from pipelines.datasets.listing import check_spellings, media_by_id
from pipelines.options import DatasetOptions, option
from stgcma.data.question_text import (
    QUESTION_FOLDER,
    VIDEO_SPLIT,
    Question,
    QuestionVocabulary,
    build_vocabulary,
    conflicting_answers,
    parse_questions,
)
from stgcma.errors import ConfigError, DatasetLayoutError

if TYPE_CHECKING:
    from pipelines.config import PreprocessConfig
    from pipelines.storage import Storage
    from stgcma.data.schema import ClipRow

NUM_SEGMENTS = 10
VIDEO_SECONDS = 60
SPLITS = ("train", "val", "test")
JSON_PARENTS = ("", "data", "MUSIC-AVQA/data")


@dataclass(frozen=True, kw_only=True)
class MusicAVQAOptions(DatasetOptions):
    """Options that only MUSIC-AVQA has."""

    questions: str = option("json", "Folder of the questions: json (as published) or json_update (corrected).")
    extra_frames: int = option(0, "Frames in a second, denser grid for negatives: 60 as published, 0 for none.")

    def __post_init__(self) -> None:
        if not self.questions.strip("/"):
            raise ConfigError(f"--questions needs the name of a folder, got {self.questions!r}.")
        if self.extra_frames < 0:
            raise ConfigError(f"--extra-frames needs 0 (none) or more, got {self.extra_frames}.")


@dataclass(frozen=True, kw_only=True)
class QuestionsDigest:
    """Stands for a video's questions in the fingerprint."""

    digest: str
    """16 hex digits of a sha256 over the video's questions and their positions in the files."""


class MusicAVQA(DatasetSource):
    """Question answering about music videos."""

    name = "music-avqa"
    annotation = "questions"
    num_segments = NUM_SEGMENTS
    default_fbanks = ("swin_avqa",)
    stores_waveform = False
    options = MusicAVQAOptions

    def list_clips(self, source: Storage, config: PreprocessConfig) -> ClipListing:
        from stgcma.data.question_table import questions_to_table

        folder = config.options_as(MusicAVQAOptions).questions
        questions = read_splits(source, folder)
        vocabulary = build_vocabulary(questions["train"])
        check_spellings(vocabulary.answers, f"{source.uri}, answers of the training questions")
        media = find_videos(source)
        asked: dict[str, dict[str, list[tuple[int, Question]]]] = defaultdict(lambda: defaultdict(list))
        for split, listed in questions.items():
            for place, question in enumerate(listed):
                asked[question.video_id][split].append((place, question))
        clips = []
        for video_id, of_split in sorted(asked.items()):
            path, size = media.get(video_id, (f"{video_id}.mp4", None))
            clips.append(
                ClipRef(
                    dataset=self.name,
                    clip_id=video_id,
                    split=VIDEO_SPLIT,
                    video_id=video_id,
                    media_uri=path,
                    media_bytes=size,
                    annotation=QuestionsDigest(digest=_digest(of_split)),
                    counts_in_stats="train" in of_split,
                    budget={split: len(listed) for split, listed in of_split.items()},
                )
            )
        return ClipListing(
            clips=tuple(clips),
            class_names=vocabulary.answers,
            question_words=vocabulary.words,
            notes=tuple(_notes(questions, vocabulary, asked.keys(), media.keys(), folder)),
            tables={
                f"{QUESTION_FOLDER}/{split}.parquet": questions_to_table(listed) for split, listed in questions.items()
            },
        )

    def build_rows(self, refs: Sequence[ClipRef], source: Storage, config: PreprocessConfig) -> list[ClipRow]:
        from pipelines.media.rows import video_row
        from pipelines.media.span import NominalLength

        return [
            video_row(
                ref,
                source,
                config,
                num_segments=self.num_segments,
                with_waveform=self.stores_waveform,
                extra_frames=self.extra_frames(config),
                nominal=NominalLength(seconds=VIDEO_SECONDS, divides_shorter=True),
            )
            for ref in refs
        ]

    def extra_frames(self, config: PreprocessConfig) -> int:
        return config.options_as(MusicAVQAOptions).extra_frames


def read_splits(source: Storage, folder: str) -> dict[str, list[Question]]:
    """Questions of every split that has a file. The training file is required, because it defines the vocabularies.

    Args:
        source: Root of the dataset.
        folder: Folder of the json files, as ``MusicAVQAOptions.questions`` names it.

    Raises:
        DatasetLayoutError: If there is no training file, or a file is malformed.
    """
    for parent in JSON_PARENTS:
        path = f"{parent}/{folder}" if parent else folder
        present = [split for split in SPLITS if source.exists(f"{path}/avqa-{split}.json")]
        if present:
            break
    else:
        looked = ", ".join(f"{parent}/{folder}" if parent else folder for parent in JSON_PARENTS)
        raise DatasetLayoutError(
            f"{source.uri} has no avqa-train.json in {looked}. Point --source at the folder that holds {folder}/ and "
            "the videos, or give the folder of the json files with --questions."
        )
    if "train" not in present:
        raise DatasetLayoutError(
            f"{source.uri}/{path} needs avqa-train.json, even for the other splits: question words and answers are "
            "numbered by their first appearance in it. Copy it there."
        )
    return {
        split: parse_questions(source.read_text(f"{path}/avqa-{split}.json"), f"{source.uri}/{path}/avqa-{split}.json")
        for split in present
    }


def find_videos(source: Storage) -> dict[str, tuple[str, int]]:
    """Video id -> (path relative to the source, size in bytes), from the source folder and the folders in it.

    Raises:
        DatasetLayoutError: If a video is in two folders.
    """
    found: dict[str, tuple[str, int]] = {}
    twice = []
    for folder in ("", *source.list_folders()):
        for video_id, (name, size) in media_by_id(source.list_files(folder)).items():
            path = f"{folder}/{name}" if folder else name
            if video_id in found:
                twice.append(f"{found[video_id][0]} and {path}")
            found[video_id] = (path, size)
    if twice:
        raise DatasetLayoutError(
            f"{len(twice)} videos are in two folders of {source.uri}, for example {'; '.join(twice[:3])}. "
            "Remove one copy of each, or point --source at a folder without the copies."
        )
    return found


def _digest(of_split: dict[str, list[tuple[int, Question]]]) -> str:
    listed = [[split, place, asdict(q)] for split, items in sorted(of_split.items()) for place, q in items]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def _notes(
    questions: dict[str, list[Question]],
    vocabulary: QuestionVocabulary,
    asked: Iterable[str],
    present: Iterable[str],
    folder: str,
) -> list[str]:
    """Notes on the questions, and on videos that are missing or not used."""
    videos = {split: {q.video_id for q in listed} for split, listed in questions.items()}
    sizes = ", ".join(f"{split} {len(listed)} on {len(videos[split])}" for split, listed in questions.items())
    notes = [
        f"questions on videos: {sizes}; {len(vocabulary.words)} words with padding, {len(vocabulary.answers)} answers",
    ]
    notes += [f"there is no avqa-{split}.json, so no {split} questions" for split in SPLITS if split not in questions]
    several = sum(count > 1 for count in Counter(v for ids in videos.values() for v in ids).values())
    if several:
        notes.append(f"{several} videos have questions in several splits; each is stored once")
    conflicts = {split: len(conflicting_answers(listed)) for split, listed in questions.items()}
    if any(conflicts.values()):
        counts = ", ".join(f"{split} {count}" for split, count in conflicts.items() if count)
        notes.append(
            f"question ids that occur several times in {folder}/ with different answers, all kept as published: "
            f"{counts}"
        )
    known_answers, known_words = set(vocabulary.answers), set(vocabulary.words)
    for split, listed in questions.items():
        unknown = sum(question.answer not in known_answers for question in listed)
        if unknown:
            notes.append(f"{unknown} {split} questions have answers that no training question has: they count as wrong")
        foreign = sum(not known_words.issuperset(question.words) for question in listed)
        if foreign:
            notes.append(f"{foreign} {split} questions have words that no training question has: these become padding")
    missing = sorted(set(asked) - set(present))
    if missing:
        notes.append(f"{len(missing)} videos with questions are missing: {', '.join(missing[:10])}")
    spare = len(set(present) - set(asked))
    if spare:
        notes.append(f"{spare} videos have no questions and are left out")
    return notes
