"""Synthetic audio-visual segmentation: two or three different shapes are seen, the one whose timbre is heard counts.

Timbre ``i`` is the voice of shape ``i`` (``SHAPES`` and ``TIMBRES``). Which shapes are there, where, how large, in
which colours, at which pitch and how loud says nothing about which one sounds. Some seconds are silent: nothing sounds
there and the mask is empty. Eyes alone know the candidates, ears alone the shape, neither the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.synthetic.render import (
    FRAME_SIZE,
    HIGH_HZ,
    LOW_HZ,
    SAMPLE_RATE,
    Look,
    Place,
    background,
    draw_look,
    paint,
    tone,
)
from pipelines.synthetic.scenes import SHAPES, Sound

NUM_SECONDS = 5
SILENT_SECONDS = 0.12
"""Chance that a second is silent."""
RADIUS = (8.0, 12.0)
SPEED = 0.8
"""Largest drift along each axis, pixels a second."""
GAP = 2 * SPEED * NUM_SECONDS
"""Pixels between objects at the start, so that they never touch."""


@dataclass(frozen=True)
class MaskPlan:
    """One clip before drawing; ``shapes[0]`` is the one that sounds."""

    shapes: tuple[int, ...]
    is_heard: tuple[bool, ...]
    """Per second."""
    is_high: bool

    @property
    def category(self) -> int:
        return self.shapes[0]


@dataclass(frozen=True)
class MaskClip:
    """One clip before encoding."""

    plan: MaskPlan
    frames: np.ndarray
    """``[5, 64, 64, 3]`` uint8, one a second."""
    objects: np.ndarray
    """``[objects, 5, 64, 64]`` bool: the pixels of every object, sounding or not, in the order of ``plan.shapes``."""
    waveform: np.ndarray
    """``[80000]`` int16, 16 kHz mono."""

    @property
    def masks(self) -> np.ndarray:
        """Ground truth ``[5, 64, 64]`` bool."""
        return self.objects[0] & np.array(self.plan.is_heard)[:, None, None]


def plan_masks(category: int, rng: np.random.Generator) -> MaskPlan:
    """Company for the sounding shape, and the seconds in which it is heard."""
    others = [shape for shape in rng.permutation(len(SHAPES)) if shape != category][: rng.integers(1, 3)]
    return MaskPlan(
        shapes=(category, *(int(shape) for shape in others)),
        is_heard=tuple((rng.random(NUM_SECONDS) >= SILENT_SECONDS).tolist()),
        is_high=bool(rng.integers(2)),
    )


def render_masks(plan: MaskPlan, rng: np.random.Generator) -> MaskClip:
    """Frames, object pixels and sound of a plan."""
    looks = [draw_look(rng) for _ in plan.shapes]
    frames, objects = draw_objects(plan.shapes, looks, NUM_SECONDS, rng)
    return MaskClip(plan=plan, frames=frames, objects=objects, waveform=_waveform(plan, rng))


def draw_objects(
    shapes: tuple[int, ...], looks: list[Look], seconds: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Shapes that drift slowly over a soft background without touching.

    Returns:
        Frames ``[seconds, 64, 64, 3]`` uint8 and the pixels of each object ``[objects, seconds, 64, 64]`` bool.
    """
    canvas = background(rng)
    places = _places(len(shapes), rng)
    drift = rng.uniform(-SPEED, SPEED, size=(len(shapes), 2))
    frames = np.empty((seconds, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    objects = np.zeros((len(shapes), seconds, FRAME_SIZE, FRAME_SIZE), dtype=bool)
    for second in range(seconds):
        picture = canvas.copy()
        for index in rng.permutation(len(shapes)):
            x, y = np.array([places[index].x, places[index].y]) + second * drift[index]
            cover = paint(picture, shapes[index], looks[index], Place(x, y, places[index].radius))
            objects[index, second] = cover[..., 0] > 0.5
        frames[second] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return frames, objects


def _places(count: int, rng: np.random.Generator) -> list[Place]:
    """Centres and radii of objects that keep ``GAP`` pixels apart and stay inside; smaller ones where none fit."""
    scale = 1.0
    while True:
        places: list[Place] = []
        for radius in rng.uniform(*RADIUS, size=count) * scale:
            margin = radius + SPEED * NUM_SECONDS
            x, y = rng.uniform(margin, FRAME_SIZE - margin, size=2)
            if all(np.hypot(x - p.x, y - p.y) >= radius + p.radius + GAP for p in places):
                places.append(Place(float(x), float(y), float(radius)))
        if len(places) == count:
            return places
        scale = max(0.5, scale * 0.995)


def _waveform(plan: MaskPlan, rng: np.random.Generator) -> np.ndarray:
    """One tone per heard second over a faint noise floor."""
    wave = rng.normal(0, 0.002, size=NUM_SECONDS * SAMPLE_RATE)
    pitch, loudness = rng.uniform(*(HIGH_HZ if plan.is_high else LOW_HZ)), rng.uniform(0.12, 0.3)
    ramp = np.minimum(1.0, np.arange(SAMPLE_RATE) / (0.01 * SAMPLE_RATE))
    for second in np.flatnonzero(plan.is_heard):
        sound = tone(Sound(plan.category, plan.is_high), pitch * rng.uniform(0.97, 1.03), rng)
        wave[second * SAMPLE_RATE : (second + 1) * SAMPLE_RATE] += loudness * ramp * ramp[::-1] * sound
    return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)
