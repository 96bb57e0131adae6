"""One synthetic clip: planned, drawn, sounded and encoded; a pure function of (seed, task, split, index)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipelines.options import option
from pipelines.synthetic.render import FRAME_RATE, FRAME_SIZE, SAMPLE_RATE, render_frames, render_waveform
from pipelines.synthetic.scenes import SHAPES, TASKS, ClipPlan, SyntheticTask, plan_clip
from stgcma.errors import ConfigError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Which synthetic set is written."""

    task: SyntheticTask = option(
        "t4", "t1: seen and heard; t3: off-screen impostors; t4: two objects, which one sounds."
    )
    num_train: int = 400
    num_val: int = 100
    num_test: int = 200
    seed: int = 0
    num_workers: int | None = option(None, "Encoding processes  [default: one a CPU]")

    def __post_init__(self) -> None:
        problems = []
        if self.task not in TASKS:
            problems.append(f"task needs one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.num_train < len(SHAPES):
            problems.append(f"num_train needs at least {len(SHAPES)} clips, one per category, got {self.num_train}.")
        if min(self.num_val, self.num_test) < 1:
            problems.append(f"num_val and num_test need at least 1 clip, got {self.num_val} and {self.num_test}.")
        if self.num_workers is not None and self.num_workers < 1:
            problems.append(f"num_workers needs at least 1 process, got {self.num_workers}.")
        if problems:
            raise ConfigError(*(f"Synthetic AVE: {problem}" for problem in problems))

    @property
    def split_sizes(self) -> dict[str, int]:
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}


@dataclass(frozen=True)
class SyntheticClip:
    """One clip before encoding: ``frames [50, 64, 64, 3]`` uint8, ``waveform [160000]`` int16, its plan and id."""

    video_id: str
    plan: ClipPlan
    frames: np.ndarray
    waveform: np.ndarray


def make_plan(config: SyntheticConfig, split: str, index: int) -> ClipPlan:
    """The plan of a clip; categories alternate within a split, so every split is balanced."""
    return plan_clip(config.task, index % len(SHAPES), _generator(config, split, index, stream=0))


def make_clip(config: SyntheticConfig, split: str, index: int) -> SyntheticClip:
    """Plan, frames and sound of one clip; a pure function of the seed, task, split and index."""
    plan = make_plan(config, split, index)
    return SyntheticClip(
        video_id=make_video_id(config, split, index),
        plan=plan,
        frames=render_frames(plan, _generator(config, split, index, stream=1)),
        waveform=render_waveform(plan, _generator(config, split, index, stream=2)),
    )


def make_video_id(config: SyntheticConfig, split: str, index: int) -> str:
    """11 characters of YouTube's alphabet; every fifth begins with ``-``, which path handling must survive."""
    digest = hashlib.sha256(f"{config.seed}/{config.task}/{split}/{index}".encode()).digest()
    name = base64.urlsafe_b64encode(digest).decode()[:11]
    return f"-{name[1:]}" if index % 5 == 0 else name


def annotation_row(config: SyntheticConfig, split: str, index: int) -> str:
    """The clip's row of ``Annotations.txt``; renders nothing."""
    plan = make_plan(config, split, index)
    return f"{SHAPES[plan.category]}&{make_video_id(config, split, index)}&good&{plan.start}&{plan.end}"


def write_mp4(path: Path, frames: np.ndarray, waveform: np.ndarray) -> None:
    """Encode H.264 (veryfast, crf 18) and AAC; single-threaded, many run side by side."""
    with av.open(str(path.absolute()), "w", format="mp4") as container:
        video = container.add_stream(
            "libx264", rate=FRAME_RATE, options={"preset": "veryfast", "crf": "18", "threads": "1"}
        )
        video.width = video.height = FRAME_SIZE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"})
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(waveform[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def write_clip(config: SyntheticConfig, split: str, index: int, folder: Path) -> int:
    """Write ``<folder>/<id>.mp4`` unless it exists; returns its size in bytes."""
    target = folder / f"{make_video_id(config, split, index)}.mp4"
    if target.exists():
        return target.stat().st_size
    clip = make_clip(config, split, index)
    partial = target.with_suffix(".mp4.partial")
    write_mp4(partial, clip.frames, clip.waveform)
    partial.replace(target)
    return target.stat().st_size


def _generator(config: SyntheticConfig, split: str, index: int, *, stream: int) -> np.random.Generator:
    key = (config.seed, TASKS.index(config.task), SPLITS.index(split), index, stream)
    return np.random.default_rng(key)
