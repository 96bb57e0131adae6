"""Two pictures of the demo: accuracies with intervals and ceilings, and what the rows say about a few test clips."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.demo.events_table import REFERENCE, DemoTable
from pipelines.synthetic.scenes import SHAPES, Scene

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASS_NAMES = (*SHAPES, "background")
CLASS_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#dddddd")


@dataclass(frozen=True, kw_only=True)
class PictureClip:
    """One test clip: its frames ``[S, H, W, 3]`` uint8, scenes, labels and predictions ``[S]`` by row title."""

    video_id: str
    frames: np.ndarray
    scenes: tuple[Scene, ...]
    labels: tuple[int, ...]
    predictions: Mapping[str, np.ndarray]


def accuracy_picture(table: DemoTable) -> bytes:
    """Accuracy of every row with its interval and seeds, and what perfect observers reach, as PNG bytes."""
    figure = _figure(9.0, 0.5 * len(table.rows) + 1.8)
    axes = figure.add_subplot()
    rows = list(reversed(table.rows))
    for height, row in enumerate(rows):
        color = "#4477aa" if row.name == REFERENCE else "#99bbdd"
        axes.barh(height, 100 * row.accuracy.mean, color=color, height=0.62)
        axes.plot([100 * row.accuracy.low, 100 * row.accuracy.high], [height, height], color="black", linewidth=1.5)
        seeds = [100 * value for value in row.per_seed]
        axes.plot(seeds, [height] * len(seeds), "o", color="black", markersize=3)
    marks = {
        "chance": table.chance,
        "ears": table.ceilings.audio,
        "eyes": table.ceilings.visual,
        "sum": table.ceilings.additive,
    }
    for level, (name, value) in enumerate(sorted(marks.items(), key=lambda item: item[1])):
        axes.axvline(100 * value, color="#aa3377", linewidth=0.9, linestyle=":")
        height = len(rows) - (0.55, 0.3)[level % 2]
        axes.text(100 * value, height, name, ha="center", va="bottom", fontsize=8, color="#aa3377")
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.6, len(rows) + 0.05)
    axes.set_xlabel(
        f"test accuracy %, task {table.task}; dots: {len(table.seeds)} seeds; line: 95 % interval over both;\n"
        "dotted: chance, and perfect observers of one second (ears alone, eyes alone, the sum of both)"
    )
    return _png(figure)


def clips_picture(clips: list[PictureClip]) -> bytes:
    """Every clip as a strip of frames with its sound, label and predictions a second below it, as PNG bytes."""
    from matplotlib.patches import Patch

    num_rows = 2 + len(clips[0].predictions)
    figure = _figure(11.0, len(clips) * (1.05 + 0.19 * num_rows) + 0.7)
    grid = figure.subplots(len(clips), 1, squeeze=False)[:, 0]
    for axes, clip in zip(grid, clips, strict=True):
        num_segments = len(clip.frames)
        axes.imshow(np.concatenate(list(clip.frames), axis=1), extent=(0, num_segments, 0, 1), aspect="auto")
        for second, scene in enumerate(clip.scenes):
            sound = "silent" if scene.sound is None else "high" if scene.sound.is_high else "low"
            axes.text(second + 0.5, -0.12, sound, ha="center", va="center", fontsize=7)
        answers = {"label": np.array(clip.labels), **clip.predictions}
        for line, values in enumerate(answers.values(), start=1):
            top = -0.05 - 0.2 * line
            axes.barh(
                [top - 0.08] * num_segments,
                width=0.94,
                left=np.arange(num_segments) + 0.03,
                height=0.15,
                color=[CLASS_COLORS[value] for value in values],
            )
        ticks = [-0.12, *(-0.13 - 0.2 * line for line in range(1, len(answers) + 1))]
        axes.set_yticks(ticks, ["sound", *answers], fontsize=8)
        axes.set_ylim(-0.05 - 0.2 * (len(answers) + 1), 1)
        axes.set_xlim(0, num_segments)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.set_title(clip.video_id, fontsize=8, loc="left")
        axes.spines[:].set_visible(False)
    patches = [Patch(color=color, label=name) for name, color in zip(CLASS_NAMES, CLASS_COLORS, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8, frameon=False)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
