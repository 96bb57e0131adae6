"""Pictures and sound of synthetic scenes: anti-aliased shapes on a soft background, timbres over a noise floor.

Colour, texture, place, motion, loudness, exact size and exact pitch are drawn at random and carry no information about
the label. Lengths are in pixels of a 64 x 64 frame, frequencies in Hz; sound has 16,000 samples per second.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from pipelines.synthetic.scenes import SHAPES, ClipPlan, SceneObject, Sound

FRAME_SIZE = 64
"""Pixels per side; the demo's models resize frames to 48."""
FRAME_RATE = 5
SAMPLE_RATE = 16_000
SMALL_RADIUS = (7.5, 9.5)
BIG_RADIUS = (14.5, 17.0)
LOW_HZ = (220.0, 330.0)
HIGH_HZ = (880.0, 1320.0)
COLORS = ("red", "yellow", "green", "cyan", "blue", "magenta")
TEXTURES = ("plain", "striped", "dotted")

_AXIS = np.arange(FRAME_SIZE, dtype=np.float32) + 0.5
_RAMP = np.minimum(1.0, np.arange(SAMPLE_RATE) / (0.01 * SAMPLE_RATE))
ENVELOPE = _RAMP * _RAMP[::-1]
"""Loudness of a one-second tone, ``[16000]``, with 10 ms of attack and of release."""


@dataclass(frozen=True)
class Look:
    """How one object looks throughout a clip; ``color`` and ``texture`` index ``COLORS`` and ``TEXTURES``."""

    color: int
    texture: int
    angle: float
    small_radius: float
    big_radius: float


@dataclass(frozen=True)
class Place:
    """Centre and radius of a drawn object in pixels."""

    x: float
    y: float
    radius: float


def draw_look(rng: np.random.Generator) -> Look:
    """Draw how one object looks."""
    return Look(
        color=int(rng.integers(len(COLORS))),
        texture=int(rng.integers(len(TEXTURES))),
        angle=float(rng.uniform(-0.35, 0.35)),
        small_radius=float(rng.uniform(*SMALL_RADIUS)),
        big_radius=float(rng.uniform(*BIG_RADIUS)),
    )


def radius_of(item: SceneObject, look: Look) -> float:
    """Radius of an object in pixels."""
    return look.big_radius if item.is_big else look.small_radius


def shape_distance(shape: int, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Approximate signed distance in pixels, negative inside, to a shape of ``SHAPES`` centred at the origin."""
    name = SHAPES[shape]
    length = np.hypot(x, y)
    if name == "Circle":
        return length - 0.92 * radius
    if name == "Square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.8 * radius
    if name == "Triangle":
        return np.maximum(0.894 * np.abs(x) - 0.447 * y, y) * 1.0 - 0.45 * radius
    if name == "Star":
        turn = np.arctan2(x, -y) % (2 * np.pi / 5)
        wedge = np.abs(turn / (2 * np.pi / 5) - 0.5) * 2
        return (length - radius * (0.38 + 0.67 * wedge**1.5)) * 0.7
    if name == "Cross":
        arms = np.minimum(np.abs(x), np.abs(y)) - 0.28 * radius
        return np.maximum(arms, np.maximum(np.abs(x), np.abs(y)) - 0.95 * radius)
    return np.abs(length - 0.7 * radius) - 0.23 * radius


def background(rng: np.random.Generator) -> np.ndarray:
    """A soft dark gradient, ``[64, 64, 3]`` float32 in 0..255."""
    corners = rng.uniform(20, 85, size=(2, 2, 3)).astype(np.float32)
    weight = (_AXIS / FRAME_SIZE)[:, None]
    rows = corners[0][None] * (1 - weight[..., None]) + corners[1][None] * weight[..., None]
    return rows[:, :1] * (1 - weight[None]) + rows[:, 1:] * weight[None]


def paint(canvas: np.ndarray, shape: int, look: Look, place: Place) -> np.ndarray:
    """Draw one object into ``canvas [64, 64, 3]`` in place; returns its coverage ``[64, 64, 1]`` in [0, 1]."""
    dx, dy = _AXIS[None, :] - place.x, _AXIS[:, None] - place.y
    cosine, sine = np.cos(look.angle), np.sin(look.angle)
    x, y = cosine * dx + sine * dy, cosine * dy - sine * dx
    cover = np.clip(0.5 - shape_distance(shape, x, y, place.radius), 0, 1)[..., None]
    color = 255 * np.array(colorsys.hsv_to_rgb(look.color / len(COLORS), 0.75, 0.95), dtype=np.float32)
    shade = np.ones_like(cover)
    if TEXTURES[look.texture] == "striped":
        shade = np.where(np.sin(2.2 * x) > 0, 1.0, 0.62)[..., None]
    elif TEXTURES[look.texture] == "dotted":
        shade = np.where(np.sin(2.0 * x) * np.sin(2.0 * y) > 0.25, 0.5, 1.0)[..., None]
    canvas += cover * (color * shade - canvas)
    return cover


def to_pixels(canvas: np.ndarray) -> np.ndarray:
    """Round a canvas ``[64, 64, 3]`` to uint8."""
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def find_places(radii: list[float], rng: np.random.Generator) -> list[Place]:
    """Draw places inside the frame; two objects go to opposite corners, so that they do not touch."""
    if len(radii) == 1:
        margin = radii[0] + 2
        x, y = rng.uniform(margin, FRAME_SIZE - margin, size=2)
        return [Place(x, y, radii[0])]
    left, top = rng.integers(2, size=2)
    places = []
    for index, radius in enumerate(radii):
        margin, slack = radius + 1, 3.0
        offset = margin + rng.uniform(0, slack, size=2)
        flips = (left ^ index, top ^ index)
        x, y = (FRAME_SIZE - o if flip else o for o, flip in zip(offset, flips, strict=True))
        places.append(Place(float(x), float(y), radius))
    return places


@dataclass(frozen=True)
class Still:
    """One picture without a clip: ``pixels [64, 64, 3]`` uint8, its objects, and the pixels that each covers."""

    pixels: np.ndarray
    items: tuple[SceneObject, ...]
    looks: tuple[Look, ...]
    covers: np.ndarray
    """``[objects, 64, 64]`` float32 in [0, 1]."""


def render_still(rng: np.random.Generator) -> Still:
    """A picture of zero, one or two different objects, drawn like the frames of clips."""
    count = int(rng.choice(3, p=(0.06, 0.44, 0.5)))
    shapes = rng.permutation(len(SHAPES))[:count]
    first_is_big = int(rng.integers(2))
    items = tuple(SceneObject(int(shape), bool(first_is_big ^ i)) for i, shape in enumerate(shapes))
    looks = tuple(draw_look(rng) for _ in items)
    canvas = background(rng)
    radii = [radius_of(item, look) for item, look in zip(items, looks, strict=True)]
    places = find_places(radii, rng) if items else []
    covers = [paint(canvas, *drawn)[..., 0] for drawn in zip(shapes, looks, places, strict=True)]
    return Still(
        pixels=to_pixels(canvas),
        items=items,
        looks=looks,
        covers=np.stack(covers) if covers else np.zeros((0, FRAME_SIZE, FRAME_SIZE), dtype=np.float32),
    )


def render_frames(plan: ClipPlan, rng: np.random.Generator) -> np.ndarray:
    """All frames of a clip, ``[50, 64, 64, 3]`` uint8, ``FRAME_RATE`` per second; objects bob by about a pixel.

    Places are drawn anew every second, so that only size and shape connect an object with its past.
    """
    base = background(rng)
    looks = {}
    for shape in sorted({item.shape for scene in plan.scenes for item in scene.objects}):
        looks[shape] = draw_look(rng)
    frames = np.empty((len(plan.scenes) * FRAME_RATE, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    for second, scene in enumerate(plan.scenes):
        items = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
        places = find_places([radius_of(item, looks[item.shape]) for item in items], rng) if items else []
        phases = rng.uniform(0, 2 * np.pi, size=2)
        for step in range(FRAME_RATE):
            canvas = base.copy()
            bob = np.sin(2 * np.pi * step / FRAME_RATE + phases)
            for item, place in zip(items, places, strict=True):
                moved = Place(place.x + bob[0], place.y + bob[1], place.radius)
                paint(canvas, item.shape, looks[item.shape], moved)
            frames[second * FRAME_RATE + step] = to_pixels(canvas)
    return frames


def render_waveform(plan: ClipPlan, rng: np.random.Generator) -> np.ndarray:
    """The sound of a clip, ``[160000]`` int16 mono 16 kHz: one tone per sounding second over a faint noise floor."""
    wave = noise_floor(len(plan.scenes), rng)
    low, high = rng.uniform(*LOW_HZ), rng.uniform(*HIGH_HZ)
    loudness = rng.uniform(0.12, 0.3)
    for second, scene in enumerate(plan.scenes):
        if scene.sound is not None:
            pitch = (high if scene.sound.is_high else low) * rng.uniform(0.97, 1.03)
            begin = second * SAMPLE_RATE
            wave[begin : begin + SAMPLE_RATE] += loudness * ENVELOPE * tone(scene.sound, pitch, rng)
    return to_samples(wave)


def noise_floor(num_seconds: int, rng: np.random.Generator) -> np.ndarray:
    """Faint white noise, ``[num_seconds * 16000]``."""
    return rng.normal(0, 0.002, size=num_seconds * SAMPLE_RATE)


def to_samples(wave: np.ndarray) -> np.ndarray:
    """Clip a waveform ``[num_samples]`` to [-1, 1] and round it to int16."""
    return np.round(np.clip(wave, -1, 1) * 32767).astype(np.int16)


def tone(sound: Sound, pitch_hz: float, rng: np.random.Generator) -> np.ndarray:
    """One second of a timbre at a pitch, ``[16000]`` float, peak about 1.

    pure: a sine. hollow: odd harmonics. bright: all harmonics. pulsing: a sine that is switched on 8 times per second.
    wavering: a sine with vibrato. rough: a sine times slow noise. Harmonics stop at 6 kHz.
    """
    seconds = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    phase = 2 * np.pi * pitch_hz * seconds + rng.uniform(0, 2 * np.pi)
    harmonics = [n for n in range(1, 25) if n * pitch_hz < 6000]
    if sound.timbre == 1:
        return sum((np.sin(n * phase) / n for n in harmonics if n % 2), start=np.zeros_like(phase))
    if sound.timbre == 2:
        return 0.6 * sum((np.sin(n * phase) / n**0.7 for n in harmonics), start=np.zeros_like(phase))
    if sound.timbre == 3:
        return np.sin(phase) * (np.sin(2 * np.pi * 8 * seconds) > 0)
    if sound.timbre == 4:
        return np.sin(phase + 0.12 * pitch_hz / 6 * np.sin(2 * np.pi * 6 * seconds))
    if sound.timbre == 5:
        slow = np.interp(seconds, np.linspace(0, 1, 401), rng.normal(size=401))
        return 0.7 * slow * np.sin(phase)
    return np.sin(phase)
