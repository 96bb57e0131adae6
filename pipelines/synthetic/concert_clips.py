"""Pictures and sound of a synthetic music video: shapes on a stage lit from the right, voices over a noise floor.

Colour, texture, exact place, size and pitch carry no information. They are drawn anew every second, which gives ten
views of each scene. The light tells left from right, and its hue tells indoors (warm) from outdoors (cool).
"""

from __future__ import annotations

import numpy as np

from pipelines.synthetic.concert import LOUDNESS, NUM_SECONDS, Concert, Voice
from pipelines.synthetic.render import (
    ENVELOPE,
    FRAME_RATE,
    FRAME_SIZE,
    SAMPLE_RATE,
    Place,
    draw_look,
    noise_floor,
    paint,
    to_pixels,
    to_samples,
    tone,
)
from pipelines.synthetic.scenes import Sound

PLACE_X = (12.0, 32.0, 52.0)
RADIUS = (8.0, 9.5)
LOOKS = (0, 2, 4, 5)
"""Shape of each instrument (``SHAPES``): circle, triangle, cross, ring."""
TIMBRE = (0, 0, 4, 3)
"""Timbre of each instrument (``TIMBRES``): pure, pure, wavering, pulsing."""
PITCHES_HZ = (700.0, 1700.0, 3800.0, 250.0)
"""Fundamental of each instrument, varied by up to 3 %; evenly spaced on the mel scale."""
LIGHT = (15.0, 85.0)
"""Brightness at the left and right edge."""
WARM, COOL = np.array([1.0, 0.7, 0.5], np.float32), np.array([0.5, 0.8, 1.0], np.float32)


def render_concert_frames(concert: Concert, rng: np.random.Generator) -> np.ndarray:
    """All frames, ``[50, 64, 64, 3]`` uint8; instruments sway by a pixel, whether they sound or not."""
    level = np.linspace(*LIGHT, FRAME_SIZE, dtype=np.float32)[None, :, None]
    stage = level * (COOL if concert.outdoor else WARM) + rng.uniform(-5, 5, size=3).astype(np.float32)
    stage = np.broadcast_to(stage, (FRAME_SIZE, FRAME_SIZE, 3))
    frames = np.empty((NUM_SECONDS * FRAME_RATE, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    for second in range(NUM_SECONDS):
        drawn = [
            (
                LOOKS[instrument],
                draw_look(rng),
                Place(PLACE_X[place] + rng.uniform(-2, 2), rng.uniform(22, 42), rng.uniform(*RADIUS)),
                rng.uniform(0, 2 * np.pi, size=2),
            )
            for instrument, place in concert.on_stage.items()
        ]
        for step in range(FRAME_RATE):
            canvas = stage.copy()
            for shape, look, place, phases in drawn:
                sway = np.sin(2 * np.pi * step / FRAME_RATE / 2 + phases)
                paint(canvas, shape, look, Place(place.x + sway[0], place.y + sway[1], place.radius))
            frames[second * FRAME_RATE + step] = to_pixels(canvas)
    return frames


def render_concert_sound(concert: Concert, rng: np.random.Generator) -> np.ndarray:
    """``[160000]`` int16 mono 16 kHz: the sum of the voices over a faint noise floor."""
    wave = noise_floor(NUM_SECONDS, rng)
    for voice in concert.voices:
        begin, end = voice.start * SAMPLE_RATE, voice.end * SAMPLE_RATE
        wave[begin:end] += LOUDNESS[voice.level] * _notes(voice, rng)
    return to_samples(wave)


def _notes(voice: Voice, rng: np.random.Generator) -> np.ndarray:
    """One note per second, ``[seconds * 16000]``, each with a short attack and release."""
    sound = Sound(timbre=TIMBRE[voice.instrument], is_high=False)
    pitch = PITCHES_HZ[voice.instrument]
    return np.concatenate([ENVELOPE * tone(sound, pitch * rng.uniform(0.97, 1.03), rng) for _ in range(voice.length)])
