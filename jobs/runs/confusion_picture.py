"""Draws a confusion matrix as PNG, without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence

from torch import Tensor


def confusion_picture(confusion: Tensor, class_names: Sequence[str], *, title: str) -> bytes:
    """Draw a confusion matrix with cells as shares of their row.

    Args:
        confusion: Counts ``[C, C]``; row = label, column = prediction. Classes without counts are left out.
        class_names: Names of the classes, by index.
        title: Title of the picture.

    Returns:
        PNG bytes. With 12 classes or fewer, the cells show their counts.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kept = [i for i in range(len(confusion)) if confusion[i].sum() + confusion[:, i].sum() > 0]
    counts = confusion[kept][:, kept].double()
    shares = (counts / counts.sum(1, keepdim=True).clamp_min(1)).numpy()
    names = [class_names[i] if i < len(class_names) else f"class {i}" for i in kept]
    labels = [f"{name}  ({int(count)})" for name, count in zip(names, counts.sum(1), strict=True)]

    side = max(4.5, 0.3 * len(kept) + 2.5)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(kept)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(kept)), labels, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label (segments)")
    axes.set_title(title, fontsize=9)
    if len(kept) <= 12:
        for row in range(len(kept)):
            for column in range(len(kept)):
                color = "white" if shares[row, column] > 0.6 else "black"
                axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the label's segments", shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
