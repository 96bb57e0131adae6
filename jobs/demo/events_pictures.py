"""Draws the two pictures of the first act: accuracies with intervals, and answers on a few test clips."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jobs.tables.report import Report
from pipelines.synthetic.ave_clips import SyntheticClip
from pipelines.synthetic.scenes import SHAPES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASS_NAMES = (*SHAPES, "background")
CLASS_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#dddddd")


def accuracy_picture(report: Report, marks: Mapping[str, float]) -> bytes:
    """The main metric of each row with its interval and its seeds, as PNG bytes.

    Args:
        report: Report of a complete sweep.
        marks: Name -> level of a dotted line, a fraction.
    """
    rows, metric = list(reversed(report.rows)), report.headline
    figure = _figure(9.0, 0.5 * len(rows) + 1.8)
    axes = figure.add_subplot()
    for height, row in enumerate(rows):
        estimate = row.estimates[metric]
        color = "#4477aa" if row.row.name == report.ablation.compare_with else "#99bbdd"
        axes.barh(height, 100 * estimate.mean, color=color, height=0.62)
        if estimate.low is not None and estimate.high is not None:
            axes.plot([100 * estimate.low, 100 * estimate.high], [height, height], color="black", linewidth=1.5)
        seeds = [100 * trial.metrics[metric] for trial in row.trials]
        axes.plot(seeds, [height] * len(seeds), "o", color="black", markersize=3)
    for level, (name, value) in enumerate(sorted(marks.items(), key=lambda item: item[1])):
        axes.axvline(100 * value, color="#aa3377", linewidth=0.9, linestyle=":")
        top = len(rows) - (0.55, 0.3, 0.05)[level % 3]
        axes.text(100 * value, top, name, ha="center", va="bottom", fontsize=8, color="#aa3377")
    axes.set_yticks(range(len(rows)), [row.row.title for row in rows])
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.6, len(rows) + 0.3)
    axes.set_xlabel(
        f"test accuracy %, {report.ablation.name}; dots: seeds; black lines: 95 % intervals;\n"
        "dotted: chance and perfect observers of one second (ears alone, eyes alone, the sum of both)"
    )
    return _png(figure)


def clips_picture(clips: Sequence[SyntheticClip], answers: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """Clips as strips of frames, with the sound, label and predictions of each second below, as PNG bytes.

    Args:
        clips: The clips, from top to bottom.
        answers: Title of a row -> video id -> predicted classes ``[S]``.
    """
    from matplotlib.patches import Patch

    num_lines = 2 + len(answers)
    figure = _figure(11.0, len(clips) * (1.05 + 0.19 * num_lines) + 0.7)
    grid = figure.subplots(len(clips), 1, squeeze=False)[:, 0]
    for axes, clip in zip(grid, clips, strict=True):
        num_segments = len(clip.plan.labels)
        frames_per_segment = len(clip.frames) // num_segments
        frames = clip.frames[frames_per_segment // 2 :: frames_per_segment]
        axes.imshow(np.concatenate(list(frames), axis=1), extent=(0, num_segments, 0, 1), aspect="auto")
        for second, scene in enumerate(clip.plan.scenes):
            sound = "silent" if scene.sound is None else "high" if scene.sound.is_high else "low"
            axes.text(second + 0.5, -0.12, sound, ha="center", va="center", fontsize=7)
        lines = {"label": np.array(clip.plan.labels)} | {name: by_id[clip.video_id] for name, by_id in answers.items()}
        for line, values in enumerate(lines.values(), start=1):
            top = -0.05 - 0.2 * line
            axes.barh(
                [top - 0.08] * num_segments,
                width=0.94,
                left=np.arange(num_segments) + 0.03,
                height=0.15,
                color=[CLASS_COLORS[value] for value in values],
            )
        ticks = [-0.12, *(-0.13 - 0.2 * line for line in range(1, len(lines) + 1))]
        axes.set_yticks(ticks, ["sound", *lines], fontsize=8)
        axes.set_ylim(-0.05 - 0.2 * (len(lines) + 1), 1)
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
