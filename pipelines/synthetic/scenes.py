"""What happens in a synthetic clip, second by second, before anything is drawn: objects, sound and label.

Three tasks over six shapes and six timbres. Small objects sound high, big objects sound low.

| task | a second carries its class if | it is background because of |
|---|---|---|
| t1 | a shape is seen and its own timbre is heard | a silent object, an unseen sound, another object's sound |
| t3 | ... and the pitch fits the size on screen | an impostor (right timbre, pitch of the other size), those of t1 |
| t4 | two objects are on screen; the pitch says which one sounds (the timbre says nothing) | silence, an unseen sound |

A sum of what each modality says decides t1 completely. It does not decide t3 and t4, nor does one modality: the answer
depends on the product of size and pitch.

The official AVE format gives each clip one category and one contiguous interval. So a clip has one *candidate*
interval: the whole clip, its beginning or its end. Every second is equally likely to be in it, so the position of a
second says nothing. Fillers take the other seconds. In t3 the candidate is either the event or an impostor throughout
the clip; an impostor clip is annotated as AVE annotates a clip without an event: start = end = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

SyntheticTask = Literal["t1", "t3", "t4"]
TASKS: tuple[SyntheticTask, ...] = ("t1", "t3", "t4")
SHAPES = ("Circle", "Square", "Triangle", "Star", "Cross", "Ring")
"""Categories in class order; timbre ``i`` is the voice of shape ``i`` (except in t4)."""
TIMBRES = ("pure", "hollow", "bright", "pulsing", "wavering", "rough")
NUM_SECONDS = 10
BACKGROUND = len(SHAPES)


@dataclass(frozen=True)
class SceneObject:
    """One object on screen: ``shape`` indexes ``SHAPES``."""

    shape: int
    is_big: bool


@dataclass(frozen=True)
class Sound:
    """One sound: ``timbre`` indexes ``TIMBRES``."""

    timbre: int
    is_high: bool


@dataclass(frozen=True)
class Scene:
    """One second: what is seen and what is heard."""

    objects: tuple[SceneObject, ...] = ()
    sound: Sound | None = None


@dataclass(frozen=True)
class ClipPlan:
    """The ten scenes of a clip, annotated as in AVE: the seconds ``start .. end - 1`` carry the category."""

    scenes: tuple[Scene, ...]
    category: int
    start: int
    end: int

    @property
    def labels(self) -> tuple[int, ...]:
        """Class of each second, ``BACKGROUND`` outside the event."""
        return tuple(
            self.category if self.start <= second < self.end else BACKGROUND for second in range(len(self.scenes))
        )


@dataclass(frozen=True)
class TaskRule:
    """Probabilities of one task."""

    whole_clip: float
    """Probability that the candidate interval is the whole clip."""
    nothing: float
    """Probability that a clip has no candidate. All other clips begin or end with it, for 1 to 9 seconds."""
    match: float
    """Probability that the candidate is the event; otherwise it is an impostor (t3)."""
    fillers: dict[str, float]
    """Weights of the kinds of second outside the candidate."""

    @property
    def kinds(self) -> dict[str, float]:
        """Probability of each kind of second, fillers and ``candidate``; the same at every position of a clip."""
        candidate = self.whole_clip + (1 - self.whole_clip - self.nothing) / 2
        total = sum(self.fillers.values())
        return {"candidate": candidate} | {k: (1 - candidate) * v / total for k, v in self.fillers.items()}


RULES: dict[str, TaskRule] = {
    "t1": TaskRule(
        whole_clip=0.2,
        nothing=0.2,
        match=1.0,
        fillers={"silent": 0.33, "unseen": 0.30, "other_shape": 0.185, "other_timbre": 0.185},
    ),
    "t3": TaskRule(
        whole_clip=0.44,
        nothing=0.0,
        match=0.694,
        fillers={"silent": 0.08, "unseen": 0.08, "other_shape": 0.05, "other_timbre": 0.05, "empty": 0.02},
    ),
    "t4": TaskRule(whole_clip=0.446, nothing=0.0, match=1.0, fillers={"silent": 2 / 3, "unseen": 1 / 3}),
}


def label_of(task: SyntheticTask, scene: Scene) -> int:
    """The class of a scene by the definition of the task, whatever way the scene was drawn."""
    sound = scene.sound
    if sound is None:
        return BACKGROUND
    for item in scene.objects:
        fits_pitch = item.is_big != sound.is_high
        fits_timbre = item.shape == sound.timbre
        if {"t1": fits_timbre, "t3": fits_timbre and fits_pitch, "t4": fits_pitch}[task]:
            return item.shape
    return BACKGROUND


@dataclass(frozen=True)
class Cast:
    """What is fixed for a whole clip. ``other`` is a second shape, always on screen in t4 and a filler in t1 and t3."""

    category: int
    other: int
    timbre: int
    is_event: bool
    """Whether the candidate is the event; if not, it is an impostor."""


def make_scene(task: SyntheticTask, kind: str, cast: Cast, *, is_big: bool) -> Scene:
    """One second of a kind: ``candidate``, or the name of a filler. ``is_big`` is the size of the first object."""
    objects: tuple[SceneObject, ...] = (SceneObject(cast.other if kind == "other_shape" else cast.category, is_big),)
    if task == "t4":
        objects += (SceneObject(cast.other, not is_big),)
    sound = Sound(cast.other if kind == "other_timbre" else cast.timbre, is_high=is_big != cast.is_event)
    return Scene(
        objects=() if kind in ("unseen", "empty") else objects,
        sound=None if kind in ("silent", "empty") else sound,
    )


def plan_clip(task: SyntheticTask, category: int, rng: np.random.Generator) -> ClipPlan:
    """Draw the ten scenes of a clip whose event, if it has one, is of ``category``."""
    rule = RULES[task]
    begin, end = _candidate_interval(rule, rng)
    cast = Cast(
        category=category,
        other=(category + int(rng.integers(1, len(SHAPES)))) % len(SHAPES),
        timbre=int(rng.integers(len(TIMBRES))) if task == "t4" else category,
        is_event=bool(rng.random() < rule.match),
    )
    sizes = rng.integers(2, size=NUM_SECONDS)  # drawn anew every second, which also changes the pitch
    before, after = _fill(rule.fillers, begin, rng), _fill(rule.fillers, NUM_SECONDS - end, rng)
    kinds = [*before, *["candidate"] * (end - begin), *after]
    scenes = tuple(make_scene(task, kind, cast, is_big=bool(size)) for kind, size in zip(kinds, sizes, strict=True))
    return ClipPlan(scenes, category, *((begin, end) if cast.is_event and end > begin else (0, 0)))


def _candidate_interval(rule: TaskRule, rng: np.random.Generator) -> tuple[int, int]:
    draw = rng.random()
    if draw < rule.whole_clip:
        return 0, NUM_SECONDS
    if draw < rule.whole_clip + rule.nothing:
        return 0, 0
    cut = int(rng.integers(1, NUM_SECONDS))
    return (0, cut) if rng.random() < 0.5 else (cut, NUM_SECONDS)


def _fill(weights: dict[str, float], num_seconds: int, rng: np.random.Generator) -> list[str]:
    """Kinds of ``num_seconds`` seconds outside the candidate, in runs of 1 to 4."""
    import numpy as np

    names, edges = list(weights), np.cumsum(list(weights.values()))
    kinds: list[str] = []
    while len(kinds) < num_seconds:
        name = names[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]
        kinds += [name] * int(rng.integers(1, 5))
    return kinds[:num_seconds]
