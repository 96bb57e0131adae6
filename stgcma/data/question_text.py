"""MUSIC-AVQA questions: the official json, the word rules and the vocabularies (method section 6).

One question is one entry of ``avqa-<split>.json``::

    {"video_id": "00000108", "question_id": 10, "type": "[\\"Audio\\", \\"Comparative\\"]",
     "question_content": "Is the <Object> louder than the <Object>?", "templ_values": "[\\"guzheng\\", \\"piano\\"]",
     "question_deleted": 0, "anser": "yes"}

``type`` and ``templ_values`` hold json in a string. The key of the answer is spelled ``anser``.
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
"""The only split of the shards. Its videos serve the questions of train, val and test."""
QUESTION_FOLDER = "questions"
"""Folder beside the shards with one Parquet file per split of questions."""
MAX_WORDS = 14
"""Word positions of the published model. Its LSTM also runs over the padding."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its placeholders filled in."""

    question_id: int
    video_id: str
    type: tuple[str, str]
    """E.g. ``("Audio-Visual", "Counting")``."""
    words: tuple[str, ...]
    answer: str


@dataclass(frozen=True, kw_only=True)
class QuestionVocabulary:
    """Words and answers, in the order of their first appearance in the training file. A position is an id."""

    words: tuple[str, ...]
    """``<pad>`` first. MUSIC-AVQA has 93."""
    answers: tuple[str, ...]
    """MUSIC-AVQA has 42."""

    def encode(self, words: Sequence[str]) -> list[int]:
        """Word ids padded to ``MAX_WORDS`` with 0.

        Raises:
            ConfigError: If the question is too long or has unknown words. The message names similar known words.
        """
        if len(words) > MAX_WORDS:
            raise ConfigError(f"A question needs at most {MAX_WORDS} words, got {len(words)}: {' '.join(words)!r}.")
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

    The rule drops any last character, because one template ends in a full-width question mark.

    Raises:
        ValueError: If the number of placeholders (words with ``<``) differs from the number of ``values``.
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
    """Words of a question that a person typed. A question mark of either width at the end is optional."""
    return tuple(text.strip().rstrip("?？").split())


def parse_questions(text: str, where: str) -> list[Question]:
    """Questions of one official file, in the order of the file, without entries marked ``question_deleted``.

    Args:
        text: Content of the file.
        where: Location of the file, for messages.

    Raises:
        DatasetLayoutError: If the file is not a json list, or an entry is malformed. The message names the first
            malformed entry.
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
            f"{where}: needs the fields {', '.join(missing)} (the answer is spelled 'anser'), "
            f"got only {', '.join(map(str, entry))}."
        )
    try:
        kind, values = _list(entry["type"]), _list(entry.get("templ_values") or [])
        if kind is None or len(kind) != 2 or values is None:
            raise ValueError("'type' needs a list of two and 'templ_values' a list, or strings that hold such lists")
        words = question_words(entry["question_content"], [str(value) for value in values])
        if not 1 <= len(words) <= MAX_WORDS:
            raise ValueError(f"needs 1 to {MAX_WORDS} words, got {len(words)}")
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
    """A json list, or the list in a json string, as in the official files; None for other values."""
    found = json.loads(value) if isinstance(value, str) else value
    return found if isinstance(found, list) else None


def build_vocabulary(training: Iterable[Question]) -> QuestionVocabulary:
    """Vocabulary of the training questions, in the order of first appearance, with ``<pad>`` in front."""
    words: dict[str, None] = {PAD: None}
    answers: dict[str, None] = {}
    for question in training:
        words.update(dict.fromkeys(question.words))
        answers[question.answer] = None
    return QuestionVocabulary(words=tuple(words), answers=tuple(answers))


def conflicting_answers(questions: Iterable[Question]) -> dict[int, tuple[str, ...]]:
    """Id -> answers in order, for every question id that occurs with different answers."""
    answers: dict[int, dict[str, None]] = {}
    for question in questions:
        answers.setdefault(question.question_id, {})[question.answer] = None
    return {number: tuple(found) for number, found in answers.items() if len(found) > 1}
