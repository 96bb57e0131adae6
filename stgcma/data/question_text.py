"""MUSIC-AVQA questions: reading the official json, the word rules, the vocabularies.

One question is one entry of ``avqa-<split>.json``::

    {"video_id": "00000108", "question_id": 10, "type": "[\\"Audio\\", \\"Comparative\\"]",
     "question_content": "Is the <Object> louder than the <Object>?", "templ_values": "[\\"guzheng\\", \\"piano\\"]",
     "question_deleted": 0, "anser": "yes"}

``type`` and ``templ_values`` are json inside a string; the answer's key is spelled ``anser``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stgcma.errors import ConfigError, DatasetLayoutError

PAD = "<pad>"
VIDEO_SPLIT = "videos"
"""The only split of the shards: a video serves the questions of train, val and test."""
QUESTION_FOLDER = "questions"
"""Beside the shards: one Parquet file of questions per question split."""
MAX_WORDS = 14
"""Word positions of the published model; its LSTM runs over the pads too."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its placeholders filled in."""

    question_id: int
    video_id: str
    type: tuple[str, str]
    """``("Audio-Visual", "Counting")``."""
    words: tuple[str, ...]
    answer: str


@dataclass(frozen=True, kw_only=True)
class QuestionVocabulary:
    """Words and answers by index, in the order of their first appearance in the training file."""

    words: tuple[str, ...]
    """``<pad>`` first; 93 in MUSIC-AVQA."""
    answers: tuple[str, ...]
    """42 in MUSIC-AVQA."""

    def encode(self, words: Sequence[str]) -> list[int]:
        """Word ids padded to ``MAX_WORDS`` with 0.

        Raises:
            ConfigError: For a question that is too long or has unknown words; names the nearest known ones.
        """
        if len(words) > MAX_WORDS:
            raise ConfigError(f"A question has at most {MAX_WORDS} words, got {len(words)}: {' '.join(words)!r}.")
        known = {word: index for index, word in enumerate(self.words)}
        unknown = [word for word in words if word not in known]
        if unknown:
            hints = []
            for word in unknown:
                near = difflib.get_close_matches(word, self.words[1:], n=3)
                hints.append(f"{word!r}" + (f" (did you mean {', '.join(near)}?)" if near else ""))
            raise ConfigError(
                f"The question {' '.join(words)!r} has words that no training question has: {', '.join(hints)}. "
                f"The model knows {len(self.words) - 1} words; use one of the templates of the training questions."
            )
        return [known[word] for word in words] + [0] * (MAX_WORDS - len(words))


def question_words(content: str, values: Sequence[str]) -> tuple[str, ...]:
    """The official word rule: strip, split at spaces, drop the last character of the last word, fill placeholders.

    One character is dropped whatever it is: one template ends in a full-width question mark.

    Raises:
        ValueError: If the number of placeholders (words containing ``<``) is not that of ``values``.
    """
    words = content.strip().split(" ")
    words[-1] = words[-1][:-1]
    places = [index for index, word in enumerate(words) if "<" in word]
    if len(places) != len(values):
        raise ValueError(f"{len(places)} placeholders but {len(values)} values")
    for place, value in zip(places, values, strict=True):
        words[place] = value
    return tuple(words)


def free_question_words(text: str) -> tuple[str, ...]:
    """Words of a question typed by a person: a question mark of either width at the end is optional."""
    return tuple(text.strip().rstrip("?？").split())


def parse_questions(text: str, where: str) -> list[Question]:
    """Questions of one official file, in file order; entries marked ``question_deleted`` are left out.

    Raises:
        DatasetLayoutError: If the file is no json list, or names the first malformed entry and what is wrong with it.
    """
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetLayoutError(
            f"{where} is not valid json (line {error.lineno}, column {error.colno}: {error.msg}). "
            "Download it again; a truncated download often ends like this."
        ) from error
    if not isinstance(entries, list):
        raise DatasetLayoutError(f"{where} needs a list of questions, got {type(entries).__name__}.")
    return [_question(entry, f"{where}, entry {i}") for i, entry in enumerate(entries) if not _is_deleted(entry)]


def _is_deleted(entry: Any) -> bool:
    return isinstance(entry, dict) and bool(entry.get("question_deleted"))


def _question(entry: Any, where: str) -> Question:
    if not isinstance(entry, dict):
        raise DatasetLayoutError(f"{where}: needs an object with the fields of a question, got {entry!r:.80}.")
    missing = [name for name in ("video_id", "question_id", "type", "question_content", "anser") if name not in entry]
    if missing:
        raise DatasetLayoutError(
            f"{where}: no field {', '.join(missing)} (the answer is spelled 'anser'); "
            f"it has {', '.join(map(str, entry))}."
        )
    try:
        kind, values = _list(entry["type"]), _list(entry.get("templ_values") or [])
        if kind is None or len(kind) != 2 or values is None:
            raise ValueError("'type' needs a list of two, 'templ_values' a list; a text may hold them")
        words = question_words(entry["question_content"], [str(value) for value in values])
        if not 1 <= len(words) <= MAX_WORDS:
            raise ValueError(f"1 to {MAX_WORDS} words are needed, got {len(words)}")
        return Question(
            question_id=int(entry["question_id"]),
            video_id=str(entry["video_id"]),
            type=(str(kind[0]), str(kind[1])),
            words=words,
            answer=str(entry["anser"]),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise DatasetLayoutError(f"{where} (question {entry.get('question_id')}): {error}.") from error


def _list(value: Any) -> list[Any] | None:
    """A json list, or the list that a text holds, as in the official files; None for anything else."""
    found = json.loads(value) if isinstance(value, str) else value
    return found if isinstance(found, list) else None


def build_vocabulary(training: Iterable[Question]) -> QuestionVocabulary:
    """Words and answers of the training questions in the order of first appearance, ``<pad>`` first."""
    words: dict[str, None] = {PAD: None}
    answers: dict[str, None] = {}
    for question in training:
        words.update(dict.fromkeys(question.words))
        answers[question.answer] = None
    return QuestionVocabulary(words=tuple(words), answers=tuple(answers))


def conflicting_answers(questions: Iterable[Question]) -> dict[int, tuple[str, ...]]:
    """Question ids that occur several times with different answers -> those answers, in order."""
    answers: dict[int, dict[str, None]] = {}
    for question in questions:
        answers.setdefault(question.question_id, {})[question.answer] = None
    return {number: tuple(found) for number, found in answers.items() if len(found) > 1}
