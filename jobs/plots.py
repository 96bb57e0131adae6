"""Pictures of a report as SVG text. Drawn without a display; equal reports give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from jobs.report import Report, RowReport
from jobs.report_formats import metric_title

COLORS = ("#2c6e9b", "#c8553d", "#4f8a3c", "#8a5a9e", "#b58a1b", "#3b8f8a", "#7a4b2a", "#c2477f", "#5b6770", "#1f3d7a")
"""One per row, then again."""

INK, FAINT = "#2b2f33", "#8b949c"

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "stgcma",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "DejaVu Sans"],
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e6e9ec",
    "axes.axisbelow": True,
}


def pictures(report: Report) -> dict[str, tuple[str, str]]:
    """File name -> (caption, SVG) of every picture the report has data for."""
    name = metric_title(report.headline)
    drawn = {
        "parameters.svg": (f"{name} against trained parameters", parameter_plot(report)),
        "learning_curves.svg": ("Selection metric by epoch, mean and range over the seeds", learning_curves(report)),
        "gates.svg": ("Gates of the cross-attention over depth, mean over the seeds", gates_plot(report)),
    }
    return {file: (caption, svg) for file, (caption, svg) in drawn.items() if svg is not None}


def parameter_plot(report: Report) -> str | None:
    """Metric against trainable parameters: ours with intervals, published values of our rows, other methods."""
    metric = report.headline
    ours = [row for row in report.rows if metric in row.estimates]
    paper = [row for row in report.rows if metric in row.row.paper and "params/trainable_millions" in row.row.paper]
    others = [
        method
        for method in report.reference_points
        if method.trainable_millions is not None and metric.removeprefix("test/") in method.metrics
    ]
    if not ours and not paper:
        return None
    figure, axes = _figure(7.6, 4.6)
    labels: list[tuple[float, float, str, str]] = []
    for method in others:
        x, y = method.trainable_millions, method.metrics[metric.removeprefix("test/")]
        axes.plot(x, y, "s", color=FAINT, markersize=4, zorder=2)
        labels.append((x, y, method.title, FAINT))
    for row in paper:
        x, y = row.row.paper["params/trainable_millions"], row.row.paper[metric]
        color = _color(report, row)
        axes.plot(x, y, "o", markerfacecolor="white", markeredgecolor=color, markersize=6, zorder=3)
        if metric not in row.estimates:
            labels.append((x, y, row.row.title, color))
    for row in ours:
        estimate, color = row.estimates[metric], _color(report, row)
        x, y = row.trainable / 1e6, 100 * estimate.mean
        if estimate.low is not None:
            axes.vlines(x, 100 * estimate.low, 100 * estimate.high, color=color, linewidth=1.4, zorder=4)
        axes.plot(x, y, "o", color=color, markersize=6.5, zorder=5)
        labels.append((x, y, row.row.title, color))
    axes.set_xscale("log")
    axes.set_xlabel("trained parameters, millions")
    axes.set_ylabel(f"{metric_title(metric)} %")
    axes.margins(x=0.16, y=0.1)
    _place_labels(figure, axes, labels)
    keys = [("o", True, "ours, with 95 % interval")] if ours else []
    keys += [("o", False, "published, this paper")] if paper else []
    keys += [("s", True, "published, other methods")] if others else []
    handles = [
        axes.plot([], [], shape, color=INK if shape == "o" else FAINT, markerfacecolor=None if full else "white",
                  markersize=5, label=text)[0]
        for shape, full, text in keys
    ]  # fmt: skip
    axes.legend(handles=handles, loc="lower right", frameon=False, fontsize=8.5)
    return _svg(figure)


def learning_curves(report: Report) -> str | None:
    """Selection metric after every epoch: mean line and range over the seeds."""
    rows = [row for row in report.rows if any(len(trial.curve) > 1 for trial in row.trials)]
    if not rows:
        return None
    figure, axes = _figure(7.6, 4.2)
    ends = []
    for row in rows:
        length = max(len(trial.curve) for trial in row.trials)
        values = np.full((len(row.trials), length), np.nan)
        for index, trial in enumerate(row.trials):
            values[index, : len(trial.curve)] = [100 * value for _, value in trial.curve]
        epochs = np.arange(1, length + 1)
        mean = np.nanmean(values, axis=0)
        color = _color(report, row)
        axes.fill_between(epochs, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=color, alpha=0.12, lw=0)
        axes.plot(epochs, mean, "-", color=color, linewidth=1.6)
        ends.append((float(length), float(mean[-1]), row.row.title, color))
    splits = sorted({"val" if trial.protocol == "val" else "test" for row in rows for trial in row.trials})
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{'/'.join(splits)} {metric_title(report.headline)} %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(x=0.02)
    figure.get_layout_engine().set(rect=(0, 0, 0.74, 1))
    _place_labels(figure, axes, ends, beside=True)
    return _svg(figure)


def gates_plot(report: Report) -> str | None:
    """Mean gate of every block, a panel for each direction; rows whose gates stayed at zero are left out."""
    rows = [row for row in report.rows if any(any(gates) for trial in row.trials for gates in trial.gates.values())]
    if not rows:
        return None
    titles = {"audio_to_visual": "α: audio to visual", "visual_to_audio": "β: visual to audio"}
    figure, panels = _figure(7.6, 3.4, panels=2)
    for axes, (direction, title) in zip(panels, titles.items(), strict=True):
        for row in rows:
            gates = np.array([trial.gates[direction] for trial in row.trials if direction in trial.gates])
            if not gates.size or not gates.any():
                continue
            blocks = np.arange(1, gates.shape[1] + 1)
            color = _color(report, row)
            axes.fill_between(blocks, gates.min(axis=0), gates.max(axis=0), color=color, alpha=0.12, lw=0)
            axes.plot(blocks, gates.mean(axis=0), "-o", color=color, markersize=3.5, linewidth=1.4, label=row.row.title)
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_title(title, fontsize=9.5, loc="left", color=INK)
        axes.set_xlabel("block")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("gate")
    handles = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return _svg(figure)


def _color(report: Report, row: RowReport) -> str:
    return COLORS[[other.row.name for other in report.rows].index(row.row.name) % len(COLORS)]


def _figure(width: float, height: float, *, panels: int = 1) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, panels, sharey=True)
    return figure, axes


def _place_labels(
    figure: Any, axes: Any, labels: Sequence[tuple[float, float, str, str]], *, beside: bool = False
) -> None:
    """Write each label beside its point and push neighbours apart vertically; a thin line joins those that moved.

    Args:
        figure: For the size of a pixel.
        axes: Whose limits are final.
        labels: (x, y, text, color) in data coordinates.
        beside: All labels in one column right of the axes, as for the ends of curves.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    to_pixels, line_height, size = axes.transData.transform, 11.5 * figure.dpi / 72, 8
    points = sorted((tuple(to_pixels((x, y))), text, color) for x, y, text, color in labels)
    points.sort(key=lambda point: point[0][1])
    width_of = {text: 0.52 * size * len(text) * figure.dpi / 72 for _, text, _ in points}
    right_edge = axes.bbox.x1
    placed: list[tuple[float, float, float, float]] = []
    for (x, y), text, color in points:
        goes_left = not beside and x + width_of[text] > right_edge
        x0 = right_edge + 10 if beside else x - 8 - width_of[text] if goes_left else x + 8
        x1, y0 = x0 + width_of[text], y
        for other_x0, other_x1, other_y in (box[:3] for box in sorted(placed, key=lambda box: box[2])):
            if x0 < other_x1 and other_x0 < x1 and abs(y0 - other_y) < line_height:
                y0 = other_y + line_height
        placed.append((x0, x1, y0, y))
        moved = abs(y0 - y) > 3
        axes.annotate(
            text,
            xy=(x, y),
            xycoords="figure pixels",
            xytext=(x0, y0),
            textcoords="figure pixels",
            fontsize=size,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.4, "shrinkA": 0, "shrinkB": 2} if moved else None,
        )


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
