"""Media that describe themselves: every picture shows its number, and the pitch of the sound tells the second.

A picture has eight vertical bars, one for each bit of its number; white is 1. The tone of second ``k`` has
``400 + 200 * k`` Hz. FFmpeg's command line (dev extra imageio-ffmpeg) writes the files.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from stgcma.data.fbank import SAMPLE_RATE
from stgcma.data.schema import ClipRow

NUM_BITS = 8
SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one file is made from the source, and how exact it must be."""

    container: str
    video: str
    """Video encoder and its options."""
    audio: str = "aac"
    order: Sequence[str] = ("0:v", "0:a")
    """Tracks of the file; ``0:v:small`` is a second, smaller video with inverted bars."""
    rate: int = 10
    cut: float = 0.0
    """Seconds cut off the beginning without new encoding: players start there, decoders at the key picture before."""
    late: float = 0.0
    """Seconds by which the muxer may place pictures late: AVI has no presentation times, and a slot may be empty."""
    picture_seconds: float = SECONDS

    @property
    def name(self) -> str:
        words = [self.container, *self.video.replace("-", "").split(), self.audio.split()[0], f"{self.rate}fps"]
        words += ["".join(track.replace("0:", "") for track in self.order)]
        words += [f"cut{self.cut:g}"] * bool(self.cut) + [f"{self.picture_seconds:g}s"] * (
            self.picture_seconds != SECONDS
        )
        return "-".join(words).replace("/", "_").replace(":", "")


def ffmpeg(*arguments: str | Path) -> None:
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def write_source(path: Path, rate: int) -> Path:
    """Write the lossless original: 160 x 96 pixels, mono 44.1 kHz."""
    bars = f"if(mod(floor(N/pow(2,floor(X*{NUM_BITS}/W))),2),210,40)"
    picture = f"nullsrc=s=160x96:r={rate}:d={SECONDS},geq=lum='{bars}':cb=128:cr=128,format=yuv420p"
    sound = f"aevalsrc='0.4*sin(2*PI*(400+200*floor(t))*t)':s=44100:d={SECONDS}"
    ffmpeg("-f", "lavfi", "-i", picture, "-f", "lavfi", "-i", sound, "-c:v", "ffv1", "-c:a", "pcm_s16le", path)
    return path


def write(recipe: Recipe, source: Path, folder: Path) -> Path:
    """Write the file of a recipe; return its path."""
    path = folder / f"clip.{recipe.container}"
    maps = [word for track in recipe.order for word in ("-map", track.replace(":small", ""))]
    options = ["-c:v", *recipe.video.split(), "-c:a", *recipe.audio.split()]
    options += ["-s", "160x96"] if "h263" not in recipe.video else ["-s", "176x144"]
    if "0:v:small" in recipe.order:
        first = recipe.order.index("0:v:small") < recipe.order.index("0:v")
        small, large = ("0", "1") if first else ("1", "0")
        options += [f"-filter:v:{small}", "negate,scale=80:48", f"-disposition:v:{small}", "0"]
        options += [f"-disposition:v:{large}", "default"]
        options.remove("160x96")
        options.remove("-s")
    whole = folder / f"whole.{recipe.container}" if recipe.cut else path
    limit = ["-vf", f"trim=duration={recipe.picture_seconds}"] if recipe.picture_seconds != SECONDS else []
    ffmpeg("-i", source, *maps, *options, *limit, whole)
    if recipe.cut:
        ffmpeg("-ss", str(recipe.cut), "-i", whole, "-map", "0", "-c", "copy", path)
    return path


def numbers(row: ClipRow) -> list[int]:
    """The number that each stored frame shows."""
    found = []
    for frame in row.frames:
        image = np.asarray(Image.open(io.BytesIO(frame)).convert("L"), dtype=float)
        width = image.shape[1] / NUM_BITS
        bars = [image[:, round((k + 0.3) * width) : round((k + 0.7) * width)].mean() for k in range(NUM_BITS)]
        found.append(sum(int(bar > 125) << k for k, bar in enumerate(bars)))
    return found


def sounding_second(waveform: np.ndarray, begin: float, seconds: float) -> float:
    """The second that the pitch of a stretch tells, not rounded; NaN for silence."""
    part = waveform[round(begin * SAMPLE_RATE) : round((begin + seconds) * SAMPLE_RATE)].astype(float)
    if part.std() < 50:
        return float("nan")
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 16))
    return (spectrum.argmax() * SAMPLE_RATE / (1 << 16) - 400) / 200
