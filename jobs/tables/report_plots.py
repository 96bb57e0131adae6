"""Draws the pictures of a report as SVG, without a display. Equal reports give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jobs.tables.report import Report, RowReport
from jobs.tables.report_formats import full_title

COLORS = ("#2c6e9b", "#c8553d", "#4f8a3c", "#8a5a9e", "#b58a1b", "#3b8f8a", "#7a4b2a", "#c2477f", "#5b6770", "#1f3d7a")
"""Colours of the rows, repeated after the last."""

INK, FAINT = "#2b2f33", "#8b949c"

STYLE: Any = {
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
    """File name -> (caption, SVG text) of each picture that the report has data for."""
    name = report.heading(report.headline)
    drawn = {
        "parameters.svg": (f"{name} against trained parameters", parameter_plot(report)),
        "learning_curves.svg": ("Selection metric by epoch, mean and range over seeds", learning_curves(report)),
        "gates.svg": ("Gates of the cross-attention by block, mean and range over seeds", gates_plot(report)),
    }
    return {file: (caption, svg) for file, (caption, svg) in drawn.items() if svg is not None}


def parameter_plot(report: Report) -> str | None:
    """SVG of the main metric against trainable parameters: ours with intervals, published values, other methods."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    metric = report.headline
    ours = [row for row in report.rows if metric in row.estimates]
    paper = [row for row in report.rows if metric in row.row.paper and "params/trainable_millions" in row.row.paper]
    others = [
        (method, method.trainable_millions)
        for method in report.reference_points
        if method.trainable_millions is not None and metric.removeprefix("test/") in method.metrics
    ]
    if not ours and not paper:
        return None
    figure, axes = _figure(10.4, 6.0)
    labels: list[Label] = []
    for method, x in others:
        y = method.metrics[metric.removeprefix("test/")]
        axes.plot(x, y, "s", color=FAINT, markersize=4, zorder=2)
        is_unique = sum(other.method == method.method for other, _ in others) == 1
        labels.append((x, y, method.method if is_unique else f"{method.method}, {method.visual}", FAINT))
    for row in paper:
        x, y = row.row.paper["params/trainable_millions"], row.row.paper[metric]
        color = _color(report, row)
        axes.plot(x, y, "o", markerfacecolor="white", markeredgecolor=color, markersize=6, zorder=3)
        if metric not in row.estimates:
            labels.append((x, y, full_title(report, row.row), color))
    for row in ours:
        estimate, color = row.estimates[metric], _color(report, row)
        x, y = (row.trainable or 0) / 1e6, 100 * estimate.mean
        if estimate.low is not None and estimate.high is not None:
            axes.vlines(x, 100 * estimate.low, 100 * estimate.high, color=color, linewidth=1.4, zorder=4)
        axes.plot(x, y, "o", color=color, markersize=6.5, zorder=5)
        labels.append((x, y, full_title(report, row.row), color))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("trained parameters, millions")
    axes.set_ylabel(f"{report.heading(metric)} %")
    axes.margins(x=0.1, y=0.1)
    _label_points(figure, axes, [*reversed(labels)])
    keys = [("o", True, "ours, with 95 % interval")] if ours else []
    keys += [("o", False, "published, this paper")] if paper else []
    keys += [("s", True, "published, other methods")] if others else []
    handles = [
        axes.plot(
            [],
            [],
            shape,
            color=INK if shape == "o" else FAINT,
            markerfacecolor=None if full else "white",
            markersize=5,
            label=text,
        )[0]
        for shape, full, text in keys
    ]
    axes.legend(handles=handles, loc="lower right", frameon=False, fontsize=8.5)
    return _svg(figure)


def learning_curves(report: Report) -> str | None:
    """SVG of the selection metric by epoch: mean and range over seeds."""
    rows = [row for row in report.rows if any(len(trial.curve) > 1 for trial in row.trials)]
    if not rows:
        return None
    figure, axes = _figure(10.4, 4.6)
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
        ends.append((float(length), float(mean[-1]), full_title(report, row.row), color))
    selected = report.ablation.task.metric(report.ablation.task.selection_metric).heading
    splits = sorted({"val" if trial.protocol == "val" else "test" for row in rows for trial in row.trials})
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{'/'.join(splits)} {selected} %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(x=0.02)
    figure.get_layout_engine().set(rect=(0, 0, 0.74, 1))
    _label_ends(figure, axes, ends)
    return _svg(figure)


def gates_plot(report: Report) -> str | None:
    """SVG of the gates by block, one panel per direction. Rows whose gates are all zero are left out."""
    rows = [row for row in report.rows if any(any(gates) for trial in row.trials for gates in trial.gates.values())]
    if not rows:
        return None
    titles = {"audio_to_visual": "α: audio to visual", "visual_to_audio": "β: visual to audio"}
    figure, panels = _figure(10.4, 3.8, panels=2)
    for axes, (direction, title) in zip(panels, titles.items(), strict=True):
        for row in rows:
            gates = np.array([trial.gates[direction] for trial in row.trials if direction in trial.gates])
            if not gates.size or not gates.any():
                continue
            blocks = np.arange(1, gates.shape[1] + 1)
            color = _color(report, row)
            axes.fill_between(blocks, gates.min(axis=0), gates.max(axis=0), color=color, alpha=0.12, lw=0)
            axes.plot(
                blocks,
                gates.mean(axis=0),
                "-o",
                color=color,
                markersize=3.5,
                linewidth=1.4,
                label=full_title(report, row.row),
            )
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_title(title, fontsize=9.5, loc="left", color=INK)
        axes.set_xlabel("block")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("gate")
    handles: dict[str, Any] = {}
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


Label = tuple[float, float, str, str]
"""(x, y, text, colour); x and y in data coordinates."""

FONT_SIZE, LINE_HEIGHT = 8, 11.0
"""Font size and line height of the labels in points. A point is a pixel, as figures have 72 dpi."""


def _label_points(figure: Any, axes: Any, labels: Sequence[Label]) -> None:
    """Write each label at the nearest free place around its point; earlier labels go first."""
    to_pixels = _freeze(figure, axes)
    points = [to_pixels((x, y)) for x, y, _, _ in labels]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    area = axes.bbox
    for (x, y), (_, _, text, color) in zip(points, labels, strict=True):
        width = _text_width(text)
        places = [
            (x + 8 if side > 0 else x - 8 - width, y + lines * LINE_HEIGHT)
            for lines in (0, 1, -1, 2, -2, 3, -3, 4, -4)
            for side in (1, -1)
        ]

        def cost(place: tuple[float, float], width: float = width) -> float:
            box = (place[0], place[1] - LINE_HEIGHT / 2, place[0] + width, place[1] + LINE_HEIGHT / 2)
            outside = max(0.0, area.x0 - box[0], box[2] - area.x1) + max(0.0, area.y0 - box[1], box[3] - area.y1)
            return 10 * outside + sum(_overlap(box, other) for other in taken)

        place = min(places, key=cost)  # of equally good places, the first one is nearest
        taken.append((place[0], place[1] - LINE_HEIGHT / 2, place[0] + width, place[1] + LINE_HEIGHT / 2))
        is_right = place[0] > x
        anchor = place if is_right else (place[0] + width, place[1])
        _write(axes, text, color, anchor, (x, y), align="left" if is_right else "right")


def _label_ends(figure: Any, axes: Any, labels: Sequence[Label]) -> None:
    """Write the labels of curves in a column right of the axes, without overlap, each joined to its curve's end."""
    to_pixels = _freeze(figure, axes)
    left, free = axes.bbox.x1 + 14, -np.inf
    for x, y, text, color in sorted(labels, key=lambda label: label[1]):
        end = to_pixels((x, y))
        free = max(end[1], free)
        _write(axes, text, color, (left, free), end, align="left")
        free += LINE_HEIGHT


def _freeze(figure: Any, axes: Any) -> Callable[[tuple[float, float]], tuple[float, float]]:
    """Fix the layout of the figure. Returns a function from data coordinates to pixels."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return lambda point: tuple(axes.transData.transform(point))


def _text_width(text: str) -> float:
    return 0.53 * FONT_SIZE * len(text)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Shared area of two boxes (x0, y0, x1, y1)."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _write(
    axes: Any, text: str, color: str, place: tuple[float, float], point: tuple[float, float], *, align: str
) -> None:
    """Write text at ``place`` and, if it is not level with ``point``, a thin line between them. All in pixels."""
    pixels = {"xycoords": "figure pixels", "annotation_clip": False}
    axes.annotate(text, xy=place, fontsize=FONT_SIZE, color=color, va="center", ha=align, **pixels)
    if abs(place[1] - point[1]) > 3:
        line = {"arrowstyle": "-", "color": color, "lw": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3}
        edge = (place[0] + (-2 if align == "left" else 2), place[1])
        axes.annotate("", xy=point, xytext=edge, textcoords="figure pixels", arrowprops=line, **pixels)


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
