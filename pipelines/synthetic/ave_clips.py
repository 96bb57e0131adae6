"""One synthetic AVE clip: plan, frames, sound and mp4 file; it depends only on (seed, task, split, index)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.synthetic.configs import SPLITS, SyntheticConfig
from pipelines.synthetic.mp4 import write_mp4
from pipelines.synthetic.render import render_frames, render_waveform
from pipelines.synthetic.scenes import SHAPES, TASKS, ClipPlan, plan_clip
from pipelines.synthetic.writing import video_name


@dataclass(frozen=True)
class SyntheticClip:
    """One clip before encoding: ``frames [50, 64, 64, 3]`` uint8, ``waveform [160000]`` int16, its plan and id."""

    video_id: str
    plan: ClipPlan
    frames: np.ndarray
    waveform: np.ndarray


def make_plan(config: SyntheticConfig, split: str, index: int) -> ClipPlan:
    """The plan of a clip; categories alternate within a split, so that every split is balanced."""
    return plan_clip(config.task, index % len(SHAPES), _generator(config, split, index, stream=0))


def make_clip(config: SyntheticConfig, split: str, index: int) -> SyntheticClip:
    """Plan, frames and sound of one clip."""
    plan = make_plan(config, split, index)
    return SyntheticClip(
        video_id=make_video_id(config, split, index),
        plan=plan,
        frames=render_frames(plan, _generator(config, split, index, stream=1)),
        waveform=render_waveform(plan, _generator(config, split, index, stream=2)),
    )


def make_video_id(config: SyntheticConfig, split: str, index: int) -> str:
    """Name of the clip's file, without suffix."""
    return video_name(f"{config.seed}/{config.task}/{split}", index)


def annotation_row(config: SyntheticConfig, split: str, index: int) -> str:
    """The clip's row of ``Annotations.txt``; nothing is rendered."""
    plan = make_plan(config, split, index)
    return f"{SHAPES[plan.category]}&{make_video_id(config, split, index)}&good&{plan.start}&{plan.end}"


def write_clip(config: SyntheticConfig, split: str, index: int, folder: Path) -> int:
    """Write ``<folder>/<id>.mp4`` unless it exists; returns its size in bytes."""
    target = folder / f"{make_video_id(config, split, index)}.mp4"
    if not target.exists():
        clip = make_clip(config, split, index)
        write_mp4(target, clip.frames, clip.waveform)
    return target.stat().st_size


def _generator(config: SyntheticConfig, split: str, index: int, *, stream: int) -> np.random.Generator:
    key = (config.seed, TASKS.index(config.task), SPLITS.index(split), index, stream)
    return np.random.default_rng(key)
