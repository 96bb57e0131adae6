"""Synthetic audio-visual segmentation: a small and a big object are seen, the pitches heard say which of them sound.

Small objects sound high, big objects sound low, as in the synthetic AVE (``pipelines/synthetic/scenes.py``). In a
second one of them may sound, or both, or neither; then the mask is empty. Sizes and places are drawn anew every second,
so an object that was small may be big a second later; shapes, colours, textures, the timbre and the loudness say
nothing. Eyes alone know the candidates, ears alone the sizes, neither the pixels; and the sound of another second is of
no use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.synthetic.render import (
    FRAME_SIZE,
    HIGH_HZ,
    LOW_HZ,
    SAMPLE_RATE,
    background,
    draw_look,
    find_places,
    paint,
    radius_of,
    tone,
)
from pipelines.synthetic.scenes import SHAPES, TIMBRES, SceneObject, Sound

NUM_SECONDS = 5
SINGLE_SOURCE = {(False, False): 0.12, (True, False): 0.88}
"""Which of the two objects sound -> chance, where only the first one ever sounds (AVSBench-S4)."""
SEVERAL_SOURCES = {(False, False): 0.1, (True, False): 0.3, (False, True): 0.3, (True, True): 0.3}
"""Where any may (MS3). An object sounds more often than not: who cannot tell when does best to mask every object, and
so binary cross-entropy does not push it to empty masks."""


@dataclass(frozen=True)
class MaskSecond:
    """One second: two objects, one small and one big, and which of them sound."""

    objects: tuple[SceneObject, SceneObject]
    is_heard: tuple[bool, bool]


@dataclass(frozen=True)
class MaskPlan:
    """One clip before drawing; the same two shapes in the same order in every second."""

    seconds: tuple[MaskSecond, ...]
    timbre: int

    @property
    def category(self) -> int:
        """The first shape: the one that sounds where a clip has a single source."""
        return self.seconds[0].objects[0].shape


@dataclass(frozen=True)
class MaskClip:
    """One clip before encoding."""

    plan: MaskPlan
    frames: np.ndarray
    """``[5, 64, 64, 3]`` uint8, one a second."""
    objects: np.ndarray
    """``[2, 5, 64, 64]`` bool: the pixels of both objects, sounding or not."""
    waveform: np.ndarray
    """``[80000]`` int16, 16 kHz mono."""

    @property
    def masks(self) -> np.ndarray:
        """Ground truth ``[5, 64, 64]`` bool."""
        is_heard = np.array([second.is_heard for second in self.plan.seconds]).T
        return (self.objects & is_heard[:, :, None, None]).any(axis=0)


def plan_masks(category: int, rng: np.random.Generator, *, single_source: bool) -> MaskPlan:
    """Company for a shape, and who is small, who is big and who sounds in every second.

    Args:
        category: The first shape.
        rng: Source of everything that is drawn.
        single_source: Only the first shape ever sounds.
    """
    chances = SINGLE_SOURCE if single_source else SEVERAL_SOURCES
    heard, edges = list(chances), np.cumsum(list(chances.values()))
    other = (category + int(rng.integers(1, len(SHAPES)))) % len(SHAPES)
    timbre, seconds = int(rng.integers(len(TIMBRES))), []
    for _ in range(NUM_SECONDS):
        is_big = bool(rng.integers(2))
        objects = (SceneObject(category, is_big), SceneObject(other, not is_big))
        seconds.append(MaskSecond(objects, heard[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]))
    return MaskPlan(tuple(seconds), timbre)


def render_masks(plan: MaskPlan, rng: np.random.Generator) -> MaskClip:
    """Frames, object pixels and sound of a plan."""
    canvas = background(rng)
    looks = [draw_look(rng) for _ in plan.seconds[0].objects]
    frames = np.empty((NUM_SECONDS, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    objects = np.zeros((len(looks), NUM_SECONDS, FRAME_SIZE, FRAME_SIZE), dtype=bool)
    for time, second in enumerate(plan.seconds):
        picture = canvas.copy()
        places = find_places([radius_of(item, look) for item, look in zip(second.objects, looks, strict=True)], rng)
        for index, (item, look, place) in enumerate(zip(second.objects, looks, places, strict=True)):
            objects[index, time] = paint(picture, item.shape, look, place)[..., 0] > 0.5
        frames[time] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return MaskClip(plan=plan, frames=frames, objects=objects, waveform=_waveform(plan, rng))


def _waveform(plan: MaskPlan, rng: np.random.Generator) -> np.ndarray:
    """One tone per second and sounding object over a faint noise floor."""
    wave = rng.normal(0, 0.002, size=NUM_SECONDS * SAMPLE_RATE)
    loudness = rng.uniform(0.12, 0.3)
    ramp = np.minimum(1.0, np.arange(SAMPLE_RATE) / (0.01 * SAMPLE_RATE))
    for time, second in enumerate(plan.seconds):
        for item, is_heard in zip(second.objects, second.is_heard, strict=True):
            if is_heard:
                sound = Sound(plan.timbre, is_high=not item.is_big)
                pitch = rng.uniform(*(HIGH_HZ if sound.is_high else LOW_HZ))
                begin = time * SAMPLE_RATE
                wave[begin : begin + SAMPLE_RATE] += loudness * ramp * ramp[::-1] * tone(sound, pitch, rng)
    return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)
