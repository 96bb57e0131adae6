"""Writes a synthetic AVSBench in the official layout: two objects are seen, the one that is heard has the mask.

Layout ``s4``, a single source: the object whose shape is the category is the only one that ever sounds.

    <output>/s4_meta_data.csv                                          name,start,category,split
    <output>/s4_data/visual_frames/<split>/<category>/<name>/<name>_{1..5}.png     64 x 64
    <output>/s4_data/audio_wav/<split>/<category>/<name>.wav                       5 s, 16 kHz mono
    <output>/s4_data/gt_masks/<split>/<category>/<name>/<name>_{k}.png             training: k = 1 only

Layout ``ms3``, several sources: either object may sound, now the one, now the other. Five masks in all splits.

    <output>/ms3_meta_data.csv                                         video_id,split
    <output>/ms3_data/visual_frames/<id>/<id>.mp4_{1..5}.png
    <output>/ms3_data/audio_wav/<split>/<id>.wav
    <output>/ms3_data/gt_masks/<split>/<id>/<id>_{1..5}.png

``pipelines/synthetic/avs_clips.py`` says what happens in a clip. A clip depends on (seed, layout, split, index) alone:
the same files on every machine.
"""

from __future__ import annotations

import base64
import hashlib
import io
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from pipelines.synthetic.avs_clips import MaskClip, plan_masks, render_masks
from pipelines.synthetic.render import SAMPLE_RATE
from pipelines.synthetic.scenes import SHAPES
from pipelines.synthetic.writing import SyntheticResult, refuse_another_set
from stgcma.errors import ConfigError

SPLITS = ("train", "val", "test")
CATEGORIES = tuple(shape.lower() for shape in SHAPES)


@dataclass(frozen=True, kw_only=True)
class SyntheticAVSConfig:
    """Which layout and how many clips are written; first shapes alternate within a split."""

    layout: Literal["s4", "ms3"]
    num_train: int = 600
    num_val: int = 100
    num_test: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} needs at least {least}, got {value}."
            for name, value, least in (
                ("num_train", self.num_train, len(SHAPES)),
                ("num_val", self.num_val, 1),
                ("num_test", self.num_test, 1),
            )
            if value < least
        ]
        if self.layout not in LAYOUTS:
            problems.append(f"layout needs one of {', '.join(LAYOUTS)}, got {self.layout!r}.")
        if problems:
            raise ConfigError(*(f"Synthetic AVS: {problem}" for problem in problems))

    @property
    def split_sizes(self) -> dict[str, int]:
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}


@dataclass(frozen=True)
class ClipPaths:
    """Paths of one clip below the data folder; ``{k}`` counts frames from 1."""

    frame: str
    sound: str
    mask: str
    num_masks: int


@dataclass(frozen=True)
class Layout:
    """Where the files of one official layout lie."""

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


LAYOUTS = {
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
    """One clip, a pure function of the seed, layout, split and index."""
    rng = np.random.default_rng((config.seed, 5, list(LAYOUTS).index(config.layout), SPLITS.index(split), index))
    return render_masks(plan_masks(index % len(SHAPES), rng, single_source=config.layout == "s4"), rng)


def make_name(config: SyntheticAVSConfig, split: str, index: int) -> str:
    """11 characters of YouTube's alphabet; every fifth begins with ``-``, which path handling must survive."""
    digest = hashlib.sha256(f"{config.seed}/avs-{config.layout}/{split}/{index}".encode()).digest()
    name = base64.urlsafe_b64encode(digest).decode()[:11]
    return f"-{name[1:]}" if index % 5 == 0 else name


def write_synthetic_avs(
    config: SyntheticAVSConfig, output: str | Path, *, on_clip: Callable[[int, int], None] | None = None
) -> SyntheticResult:
    """Write the whole set; the table comes last, so a folder with a table is complete.

    Args:
        config: Layout, sizes and seed.
        output: Folder to create; one that holds this very set is left as it is.
        on_clip: Called with (clips written, clips in all), for a progress bar.

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
    """mIoU that needs no listening: every object masked, a random object masked, nothing masked.

    What a segmentation model reaches that sees perfectly and hears nothing lies near the best of them.
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
    """As the metric scores frames: an empty truth is scored on the background."""
    union = (guess | truth).sum((1, 2))
    empty = ~truth.any((1, 2))
    shared = np.where(empty, (~guess & ~truth).sum((1, 2)), (guess & truth).sum((1, 2)))
    return float((shared / np.where(empty, guess[0].size, np.maximum(union, 1))).sum())
