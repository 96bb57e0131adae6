"""Writes a synthetic AVSBench in the official layout: two objects are visible, and masks show those that sound.

Layout ``s4``, a single source: only the object whose shape is the category may sound.

    <output>/s4_meta_data.csv                                          name,start,category,split
    <output>/s4_data/visual_frames/<split>/<category>/<name>/<name>_{1..5}.png     64 x 64
    <output>/s4_data/audio_wav/<split>/<category>/<name>.wav                       5 s, 16 kHz mono
    <output>/s4_data/gt_masks/<split>/<category>/<name>/<name>_{k}.png             training: k = 1 only

Layout ``ms3``, several sources: one object, both or neither may sound. All splits have five masks per clip.

    <output>/ms3_meta_data.csv                                         video_id,split
    <output>/ms3_data/visual_frames/<id>/<id>.mp4_{1..5}.png
    <output>/ms3_data/audio_wav/<split>/<id>.wav
    <output>/ms3_data/gt_masks/<split>/<id>/<id>_{1..5}.png

``pipelines/synthetic/avs_clips.py`` says what happens in a clip. A clip depends only on (seed, layout, split, index):
its files are the same on every machine.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.synthetic.avs_clips import MaskClip, plan_masks, render_masks
from pipelines.synthetic.configs import SPLITS, AVSLayout, SyntheticAVSConfig
from pipelines.synthetic.render import SAMPLE_RATE
from pipelines.synthetic.scenes import SHAPES
from pipelines.synthetic.writing import SyntheticResult, refuse_another_set, video_name

CATEGORIES = tuple(shape.lower() for shape in SHAPES)


@dataclass(frozen=True)
class ClipPaths:
    """Paths of one clip below the data folder; ``{k}`` is the number of a frame, from 1."""

    frame: str
    sound: str
    mask: str
    num_masks: int


@dataclass(frozen=True)
class Layout:
    """Paths and table of one official layout."""

    table: str
    data: str
    header: str
    line: Callable[[str, str, str], str]
    """(name, category, split) -> line of the table."""
    paths: Callable[[str, str, str], ClipPaths]
    """(name, category, split) -> files of a clip."""


def _s4_paths(name: str, category: str, split: str) -> ClipPaths:
    folder = f"{split}/{category}"
    return ClipPaths(
        frame=f"visual_frames/{folder}/{name}/{name}_{{k}}.png",
        sound=f"audio_wav/{folder}/{name}.wav",
        mask=f"gt_masks/{folder}/{name}/{name}_{{k}}.png",
        num_masks=1 if split == "train" else 5,
    )


def _ms3_paths(name: str, category: str, split: str) -> ClipPaths:
    return ClipPaths(
        frame=f"visual_frames/{name}/{name}.mp4_{{k}}.png",
        sound=f"audio_wav/{split}/{name}.wav",
        mask=f"gt_masks/{split}/{name}/{name}_{{k}}.png",
        num_masks=5,
    )


LAYOUTS: dict[AVSLayout, Layout] = {
    "s4": Layout(
        table="s4_meta_data.csv",
        data="s4_data",
        header="name,start,category,split",
        line=lambda name, category, split: f"{name},0,{category},{split}",
        paths=_s4_paths,
    ),
    "ms3": Layout(
        table="ms3_meta_data.csv",
        data="ms3_data",
        header="video_id,split",
        line=lambda name, category, split: f"{name},{split}",
        paths=_ms3_paths,
    ),
}


def make_mask_clip(config: SyntheticAVSConfig, split: str, index: int) -> MaskClip:
    """One clip before encoding."""
    rng = np.random.default_rng((config.seed, 5, list(LAYOUTS).index(config.layout), SPLITS.index(split), index))
    return render_masks(plan_masks(index % len(SHAPES), rng, single_source=config.layout == "s4"), rng)


def make_name(config: SyntheticAVSConfig, split: str, index: int) -> str:
    """Name of the clip in the table and in its paths."""
    return video_name(f"{config.seed}/avs-{config.layout}/{split}", index)


def write_synthetic_avs(
    config: SyntheticAVSConfig, output: str | Path, *, on_clip: Callable[[int, int], None] | None = None
) -> SyntheticResult:
    """Write the whole set. The table comes last, so a folder with a table is complete.

    Args:
        config: Layout, sizes and seed.
        output: Folder to create; nothing is written if it holds the same complete set.
        on_clip: Called with (clips written, all clips), for a progress bar.

    Raises:
        ConfigError: If ``output`` already holds another set.
    """
    root, layout = Path(output), LAYOUTS[config.layout]
    table = root / layout.table
    clips = [(split, index) for split, size in config.split_sizes.items() for index in range(size)]
    lines = [layout.line(make_name(config, s, i), CATEGORIES[i % len(CATEGORIES)], s) for s, i in clips]
    text = "\n".join([layout.header, *lines]) + "\n"
    refuse_another_set(root, {layout.table: text})
    if not table.exists():
        for count, (split, index) in enumerate(clips, start=1):
            _write_clip(root / layout.data, config, split, index)
            if on_clip:
                on_clip(count, len(clips))
        table.write_text(text)
    num_bytes = sum(path.stat().st_size for path in (root / layout.data).rglob("*") if path.is_file())
    return SyntheticResult(root=root, split_sizes=config.split_sizes, num_bytes=num_bytes)


def _write_clip(data: Path, config: SyntheticAVSConfig, split: str, index: int) -> None:
    clip, name = make_mask_clip(config, split, index), make_name(config, split, index)
    paths = LAYOUTS[config.layout].paths(name, CATEGORIES[clip.plan.category], split)
    for second, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        _write_png(data / paths.frame.format(k=second + 1), frame)
        if second < paths.num_masks:
            _write_png(data / paths.mask.format(k=second + 1), mask.astype(np.uint8) * 255)
    sound = data / paths.sound
    sound.parent.mkdir(parents=True, exist_ok=True)
    sound.write_bytes(_wav(clip.waveform))


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _wav(waveform: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(waveform.astype("<i2").tobytes())
    return buffer.getvalue()


def blind_scores(config: SyntheticAVSConfig, split: str) -> dict[str, float]:
    """mIoU of three guesses that need no sound: mask every object, a random object, or nothing.

    A segmentation model that sees perfectly and hears nothing comes close to the best of them.
    """
    rng = np.random.default_rng((config.seed, 6))
    totals = {"every object": 0.0, "a random object": 0.0, "nothing": 0.0}
    frames = 0
    for index in range(config.split_sizes[split]):
        clip = make_mask_clip(config, split, index)
        chosen = clip.objects[rng.integers(len(clip.objects))]
        guesses = {"every object": clip.objects.any(0), "a random object": chosen, "nothing": np.zeros_like(chosen)}
        for name, guess in guesses.items():
            totals[name] += _sum_of_ious(guess, clip.masks)
        frames += len(clip.masks)
    return {name: total / frames for name, total in totals.items()}


def _sum_of_ious(guess: np.ndarray, truth: np.ndarray) -> float:
    """Sum of the frames' IoU as the metric scores it: for an empty truth, the IoU of the background."""
    union = (guess | truth).sum((1, 2))
    empty = ~truth.any((1, 2))
    shared = np.where(empty, (~guess & ~truth).sum((1, 2)), (guess & truth).sum((1, 2)))
    return float((shared / np.where(empty, guess[0].size, np.maximum(union, 1))).sum())
