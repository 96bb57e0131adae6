"""What happens in a synthetic music video, and the questions about it: nine types, in MUSIC-AVQA's own templates.

One to three of four instruments (shapes) stand on a stage: left, middle or right. One or two instruments sound, on
stage or not, each with its own pitch. The first one begins at the start of the video, the second one later; one is loud
and one is soft. So what is seen says little about what is heard, and vice versa.

| group | needs |
|---|---|
| Audio (counting, comparative) | sound only |
| Visual (counting, location) | pictures only |
| Audio-Visual (five types) | both: which instrument on stage sounds, where the first one to sound stands, ... |

For every question the answer is drawn first, uniformly from the answers that the scene allows, and then its objects. So
the words of a question say little about its answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

INSTRUMENTS = ("cello", "piano", "flute", "drum")
PLACES = ("left", "middle", "right")
NUMBERS = ("zero", "one", "two", "three")
NUM_SECONDS = 10
LOUDNESS = (0.30, 0.06)
"""Peak amplitudes; no two voices of a video share one."""


@dataclass(frozen=True)
class Voice:
    """One instrument that sounds in the seconds ``start .. end - 1``; ``level`` indexes ``LOUDNESS``, loudest first."""

    instrument: int
    start: int
    end: int
    level: int

    @property
    def length(self) -> int:
        """Seconds."""
        return self.end - self.start


@dataclass(frozen=True)
class Concert:
    """One video: where instruments stand, and when they sound."""

    on_stage: dict[int, int]
    """Instrument -> index of its place."""
    voices: tuple[Voice, ...]
    """In the order of their first second; no two start together."""
    outdoor: bool

    @property
    def heard(self) -> dict[int, Voice]:
        """Instrument -> its voice."""
        return {voice.instrument: voice for voice in self.voices}


@dataclass(frozen=True)
class AskedQuestion:
    """A question in the official form."""

    type: tuple[str, str]
    template: str
    values: tuple[str, ...]
    answer: str


def plan_concert(rng: np.random.Generator) -> Concert:
    """Draw a scene: one to three instruments on stage and one or two voices, mostly from the stage."""
    order = [int(i) for i in rng.permutation(len(INSTRUMENTS))]
    count = int(rng.integers(1, 4))
    places = rng.permutation(len(PLACES))[:count].tolist()
    seen, unseen = order[:count], order[count:]
    levels = rng.permutation(len(LOUDNESS)).tolist()
    num_voices = 1 if rng.random() < 0.35 else 2
    from_stage = 0.5 if count == num_voices == 1 else 0.7
    voices: list[Voice] = []
    for index in range(num_voices):
        silent = [i for i in order if all(voice.instrument != i for voice in voices)]
        group = seen if rng.random() < from_stage else unseen
        chosen = [i for i in silent if i in group] or silent
        start = int(rng.integers(3, 7)) if index else 0
        end = NUM_SECONDS if rng.random() < 0.7 - 0.4 * index else int(rng.integers(start + 3, NUM_SECONDS))
        voices.append(Voice(chosen[rng.integers(len(chosen))], start, end, levels[index]))
    return Concert(dict(zip(seen, places, strict=True)), tuple(voices), bool(rng.integers(2)))


def ask(concert: Concert, per_type: int, rng: np.random.Generator) -> list[AskedQuestion]:
    """Up to ``per_type`` different questions of every type that the scene allows.

    A template with objects is used only if the scene allows more than one answer to it; otherwise the words would give
    the answer away.
    """
    asked: dict[AskedQuestion, None] = {}
    for kind, templates in [item for item in QUESTIONS.items() for _ in range(per_type)]:
        possible = {name: list(finder(concert)) for name, finder in templates.items()}
        possible = {
            name: found
            for name, found in possible.items()
            if found and (len(found) == 1 or len({answer for _, answer in found}) > 1)
        }
        if not possible:
            continue
        template = list(possible)[rng.integers(len(possible))]
        answers = sorted({answer for _, answer in possible[template]})
        answer = answers[rng.integers(len(answers))]
        choices = [values for values, found in possible[template] if found == answer]
        asked[AskedQuestion(kind, template, choices[rng.integers(len(choices))], answer)] = None
    return list(asked)


Found = Iterator[tuple[tuple[str, ...], str]]
"""(values of the placeholders, answer) of every question that a template allows in a scene."""


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


def _is_heard(c: Concert) -> Found:
    yield from (((name,), _yes(i in c.heard)) for i, name in enumerate(INSTRUMENTS))


def _number_heard(c: Concert) -> Found:
    yield (), NUMBERS[len(c.voices)]


def _louder(c: Concert) -> Found:
    for a, b in permutations(c.voices, 2):
        yield (INSTRUMENTS[a.instrument], INSTRUMENTS[b.instrument]), _yes(a.level < b.level)


def _longer(c: Concert) -> Found:
    for a, b in permutations(c.voices, 2):
        if abs(a.length - b.length) >= 2:
            yield (INSTRUMENTS[a.instrument], INSTRUMENTS[b.instrument]), _yes(a.length > b.length)


def _is_seen(c: Concert) -> Found:
    yield from (((name,), _yes(i in c.on_stage)) for i, name in enumerate(INSTRUMENTS))


def _number_seen(c: Concert) -> Found:
    yield (), NUMBERS[len(c.on_stage)]


def _outermost(c: Concert) -> Found:
    if len(c.on_stage) > 1:
        by_place = sorted(c.on_stage, key=c.on_stage.__getitem__)
        yield ("leftest",), INSTRUMENTS[by_place[0]]
        yield ("rightest",), INSTRUMENTS[by_place[-1]]


def _performance(c: Concert) -> Found:
    yield (), "outdoor" if c.outdoor else "indoor"


def _from_the_stage(c: Concert) -> Found:
    if len(c.on_stage) == len(c.voices) == 1:
        yield (), _yes(c.voices[0].instrument in c.on_stage)


def _always_playing(c: Concert) -> Found:
    first = c.voices[0]
    always = first.instrument in c.on_stage and first.length == NUM_SECONDS
    yield (INSTRUMENTS[first.instrument],), _yes(always)


def _loudest_place(c: Concert) -> Found:
    loudest = min(c.voices, key=lambda voice: voice.level).instrument
    if len(c.on_stage) > 1 and loudest in c.on_stage:
        yield ("loudest",), PLACES[c.on_stage[loudest]]


def _comes_from(c: Concert) -> Found:
    if len(c.on_stage) > 1:
        by_place = sorted(c.on_stage, key=c.on_stage.__getitem__)
        for when, voice in (("first", c.voices[0]), ("last", c.voices[-1])):
            yield (when, "left"), _yes(voice.instrument == by_place[0])
            yield (when, "right"), _yes(voice.instrument == by_place[-1])


def _silent(c: Concert) -> Found:
    yield (), NUMBERS[sum(i not in c.heard for i in c.on_stage)]


def _sounding_object(c: Concert) -> Found:
    for i in c.on_stage.keys() | c.heard.keys():
        yield (INSTRUMENTS[i],), NUMBERS[int(i in c.on_stage and i in c.heard)]


def _louder_side(c: Concert) -> Found:
    by_place = sorted(c.on_stage, key=c.on_stage.__getitem__)
    if len(by_place) > 1 and by_place[0] in c.heard and by_place[-1] in c.heard:
        left_is_louder = c.heard[by_place[0]].level < c.heard[by_place[-1]].level
        yield ("left", "right"), _yes(left_is_louder)
        yield ("right", "left"), _yes(not left_is_louder)


def _place_of_entry(c: Concert) -> Found:
    if len(c.on_stage) > 1:
        for when, voice in (("first", c.voices[0]), ("last", c.voices[-1])):
            if voice.instrument in c.on_stage:
                yield (when,), PLACES[c.on_stage[voice.instrument]]


QUESTIONS = {
    ("Audio", "Counting"): {
        "Is there a <Object> sound?": _is_heard,
        "How many musical instruments were heard throughout the video?": _number_heard,
    },
    ("Audio", "Comparative"): {
        "Is the <Object> louder than the <Object>?": _louder,
        "Is the <Object> playing longer than the <Object>?": _longer,
    },
    ("Visual", "Counting"): {
        "Is there a <Object> in the entire video?": _is_seen,
        "How many types of musical instruments appeared in the entire video?": _number_seen,
    },
    ("Visual", "Location"): {
        "What kind of instrument is the <LRer> instrument? ": _outermost,
        "Where is the performance?": _performance,
    },
    ("Audio-Visual", "Existential"): {
        "Is this sound from the instrument in the video?": _from_the_stage,
        "Is the <Object> in the video always playing?": _always_playing,
    },
    ("Audio-Visual", "Location"): {
        "Where is the <LL> instrument?": _loudest_place,
        "Is the <FL> sound coming from the <LR> instrument?": _comes_from,
    },
    ("Audio-Visual", "Counting"): {
        "How many instruments in the video did not sound from beginning to end?": _silent,
        "How many sounding <Object> in the video？": _sounding_object,
    },
    ("Audio-Visual", "Comparative"): {
        "Is the instrument on the <LR> louder than the instrument on the <LR>?": _louder_side,
    },
    ("Audio-Visual", "Temporal"): {
        "Where is the <FL> sounding instrument?": _place_of_entry,
    },
}
"""Type -> official template -> function that finds its questions in a scene."""
