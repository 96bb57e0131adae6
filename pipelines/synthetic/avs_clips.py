"""Synthetic audio-visual segmentation: a small and a big object are visible, and the pitches say which of them sound.

Small objects sound high, big objects sound low, as in the synthetic AVE (``pipelines/synthetic/scenes.py``). In each
second one object may sound, or both, or neither; then the mask is empty. Sizes and places are drawn anew every second,
so a small object may be big a second later. Shapes, colours, textures, timbre and loudness carry no information. The
pictures alone give the candidates, the sound alone gives the sizes, and neither gives the mask; the sound of another
second does not help.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.synthetic.render import (
    ENVELOPE,
    FRAME_SIZE,
    HIGH_HZ,
    LOW_HZ,
    SAMPLE_RATE,
    background,
    draw_look,
    find_places,
    noise_floor,
    paint,
    radius_of,
    to_pixels,
    to_samples,
    tone,
)
from pipelines.synthetic.scenes import SHAPES, TIMBRES, SceneObject, Sound

NUM_SECONDS = 5
SINGLE_SOURCE = {(False, False): 0.12, (True, False): 0.88}
"""Which of the two objects sound -> probability, if only the first one may sound (AVSBench-S4)."""
SEVERAL_SOURCES = {(False, False): 0.1, (True, False): 0.3, (False, True): 0.3, (True, True): 0.3}
"""The same if both may sound (MS3). Each object sounds in more than half of the seconds. So a model that cannot tell
when does best if it masks every object, and binary cross-entropy does not push it to empty masks."""


@dataclass(frozen=True)
class MaskSecond:
    """One second: a small and a big object, and which of them sound."""

    objects: tuple[SceneObject, SceneObject]
    is_heard: tuple[bool, bool]


@dataclass(frozen=True)
class MaskPlan:
    """One clip before drawing; every second has the same two shapes in the same order."""

    seconds: tuple[MaskSecond, ...]
    timbre: int

    @property
    def category(self) -> int:
        """The first shape, which is the one that sounds if a clip has a single source."""
        return self.seconds[0].objects[0].shape


@dataclass(frozen=True)
class MaskClip:
    """One clip before encoding."""

    plan: MaskPlan
    frames: np.ndarray
    """``[5, 64, 64, 3]`` uint8, one per second."""
    objects: np.ndarray
    """``[2, 5, 64, 64]`` bool: the pixels of each object, whether it sounds or not."""
    waveform: np.ndarray
    """``[80000]`` int16, 16 kHz mono."""

    @property
    def masks(self) -> np.ndarray:
        """Ground truth ``[5, 64, 64]`` bool."""
        is_heard = np.array([second.is_heard for second in self.plan.seconds]).T
        return (self.objects & is_heard[:, :, None, None]).any(axis=0)


def plan_masks(category: int, rng: np.random.Generator, *, single_source: bool) -> MaskPlan:
    """Draw the second shape, and the sizes and the sounding objects of every second.

    Args:
        category: The first shape.
        rng: Source of all random draws.
        single_source: Whether only the first shape may sound.
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
        frames[time] = to_pixels(picture)
    return MaskClip(plan=plan, frames=frames, objects=objects, waveform=_waveform(plan, rng))


def _waveform(plan: MaskPlan, rng: np.random.Generator) -> np.ndarray:
    """One tone per second for each sounding object, over a faint noise floor."""
    wave = noise_floor(NUM_SECONDS, rng)
    loudness = rng.uniform(0.12, 0.3)
    for time, second in enumerate(plan.seconds):
        for item, is_heard in zip(second.objects, second.is_heard, strict=True):
            if is_heard:
                sound = Sound(plan.timbre, is_high=not item.is_big)
                pitch = rng.uniform(*(HIGH_HZ if sound.is_high else LOW_HZ))
                begin = time * SAMPLE_RATE
                wave[begin : begin + SAMPLE_RATE] += loudness * ENVELOPE * tone(sound, pitch, rng)
    return to_samples(wave)
