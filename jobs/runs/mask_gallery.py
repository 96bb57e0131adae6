"""Draws the best and worst clips of a segmentation run like the paper's Figure 2: frames, truth, prediction, baseline.

``MaskGallery`` keeps the best and worst clips of an evaluation; ``mask_figure`` draws them as one PNG.
"""

from __future__ import annotations

import heapq
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from jobs.runs.gallery import Gallery
from stgcma.backbone_spec import BackboneSpec
from stgcma.data.batch import AVBatch, MaskTargets
from stgcma.errors import ConfigError
from stgcma.tasks.base import Outputs
from stgcma.tasks.segmentation_metrics import binary_masks, frame_ious

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TILE = 112
"""Width and height of one picture in the figure, in pixels."""
GAP = 3
TRUTH_COLOR = (255, 196, 0)
PREDICTION_COLOR = (0, 190, 255)
BASELINE_COLOR = (255, 90, 160)


@dataclass(frozen=True)
class MaskExample:
    """One clip to draw, with ``K`` frames of ``H x W`` pixels."""

    clip_id: str
    category: str
    frames: np.ndarray
    """``[K, H, W, 3]`` uint8."""
    truth: np.ndarray
    """``[K, H, W]`` bool."""
    prediction: np.ndarray
    """``[K, H, W]`` bool."""
    ious: tuple[float, ...]
    baseline: np.ndarray | None = None
    baseline_ious: tuple[float, ...] = ()

    @property
    def miou(self) -> float:
        return sum(self.ious) / len(self.ious)


class MaskGallery(Gallery):
    """Keeps the ``size`` best and the ``size`` worst clips of an evaluation by mIoU, and no others in memory."""

    def __init__(self, backbone: BackboneSpec, only: frozenset[str] = frozenset(), *, size: int = 3) -> None:
        super().__init__(backbone, only)
        self.size = size
        self._best: list[tuple[float, str, MaskExample]] = []
        self._worst: list[tuple[float, str, MaskExample]] = []
        self._chosen: dict[str, MaskExample] = {}

    def add(self, batch: AVBatch, outputs: Outputs) -> None:
        """Take one batch and its outputs."""
        for index, clip_id in enumerate(batch.clip_ids):
            if self.only and clip_id not in self.only:
                continue
            example = _example(batch, outputs["logits"], index, self.backbone)
            if self.only:
                self._chosen[clip_id] = example
                continue
            for heap, score in ((self._best, example.miou), (self._worst, -example.miou)):
                heapq.heappush(heap, (score, clip_id, example))
                if len(heap) > self.size:
                    heapq.heappop(heap)

    @property
    def best(self) -> list[MaskExample]:
        """The best clips, highest mIoU first."""
        return [example for _, _, example in sorted(self._best, key=lambda item: (-item[0], item[1]))]

    @property
    def worst(self) -> list[MaskExample]:
        """The worst clips, lowest mIoU first."""
        return [example for _, _, example in sorted(self._worst, key=lambda item: (-item[0], item[1]))]

    @property
    def clip_ids(self) -> frozenset[str]:
        return frozenset(example.clip_id for example in (*self.best, *self.worst))

    def with_baseline(self, examples: list[MaskExample]) -> list[MaskExample]:
        """Add this gallery's predictions on the same clips to the examples, as their baseline.

        Raises:
            ConfigError: If this gallery has not seen a clip, because the runs evaluate different data.
        """
        missing = sorted(example.clip_id for example in examples if example.clip_id not in self._chosen)
        if missing:
            raise ConfigError(
                f"--baseline needs a run on the same dataset and split, got one without the clip {missing[0]!r}."
            )
        return [
            replace(example, baseline=other.prediction, baseline_ious=other.ious)
            for example in examples
            for other in (self._chosen[example.clip_id],)
        ]

    def pictures(
        self, *, title: str, baseline: Gallery | None = None, baseline_name: str = "baseline"
    ) -> dict[str, bytes]:
        """Draw the best and the worst clips. As ``Gallery.pictures``."""
        pictures = {}
        for name, examples in (("best", self.best), ("worst", self.worst)):
            if baseline is not None:
                assert isinstance(baseline, MaskGallery)
                examples = baseline.with_baseline(examples)
            if examples:
                pictures[f"masks_{name}.png"] = mask_figure(
                    examples, title=f"{title}: {name} clips", baseline_name=baseline_name
                )
        return pictures


def _example(batch: AVBatch, logits: Tensor, index: int, backbone: BackboneSpec) -> MaskExample:
    targets = batch.targets
    assert isinstance(targets, MaskTargets)
    assert batch.frames is not None
    frames = batch.frames[index, targets.frame_index].permute(0, 2, 3, 1).float()
    pixels = (frames * torch.tensor(backbone.image_std) + torch.tensor(backbone.image_mean)).clamp(0, 1) * 255
    masks = targets.masks[index]
    return MaskExample(
        clip_id=batch.clip_ids[index],
        category=targets.categories[index] if targets.categories else "",
        frames=pixels.round().to(torch.uint8).numpy(),
        truth=(masks > 0.5).numpy(),
        prediction=binary_masks(logits[index]).numpy(),
        ious=tuple(frame_ious(logits[index], masks).tolist()),
    )


def mask_figure(examples: list[MaskExample], *, title: str, baseline_name: str = "baseline") -> bytes:
    """Draw clips below each other, each with rows of pictures and the IoU of every predicted mask.

    Args:
        examples: The clips, at least one. Those with a ``baseline`` get a fourth row.
        title: Title of the figure.
        baseline_name: Label of the fourth row.

    Returns:
        PNG bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [4 if example.baseline is not None else 3 for example in examples]
    columns = max(len(example.frames) for example in examples)
    figure = Figure(figsize=(1.25 * columns + 1.2, 1.25 * sum(rows) + 0.55 * len(rows) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(examples), 1, squeeze=False, height_ratios=rows)
    for axes, example in zip(grid[:, 0], examples, strict=True):
        names = ["frame", "ground truth", "prediction", baseline_name][: 3 + (example.baseline is not None)]
        axes.imshow(contact_sheet(example), interpolation="nearest")
        axes.set_yticks([TILE / 2 + row * (TILE + GAP) for row in range(len(names))], names, fontsize=8)
        axes.set_xticks([])
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        heading = f"{example.clip_id}  {example.category}".strip()
        axes.set_title(f"{heading}   mIoU {example.miou:.2f}", fontsize=8, loc="left")
        _write_ious(axes, example.ious, row=2)
        if example.baseline is not None:
            _write_ious(axes, example.baseline_ious, row=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _write_ious(axes: Axes, ious: tuple[float, ...], row: int) -> None:
    for column, iou in enumerate(ious):
        x, y = column * (TILE + GAP) + 4, (row + 1) * (TILE + GAP) - GAP - 6
        axes.text(x, y, f"{iou:.2f}", fontsize=7, color="white", va="bottom")


def contact_sheet(example: MaskExample) -> np.ndarray:
    """One clip as an image ``[height, width, 3]`` uint8 with rows for frames, truth, prediction and baseline."""
    layers = [
        list(example.frames),
        [overlay(f, m, TRUTH_COLOR) for f, m in zip(example.frames, example.truth, strict=True)],
        [overlay(f, m, PREDICTION_COLOR) for f, m in zip(example.frames, example.prediction, strict=True)],
    ]
    if example.baseline is not None:
        layers.append([overlay(f, m, BASELINE_COLOR) for f, m in zip(example.frames, example.baseline, strict=True)])
    side = TILE + GAP
    sheet = np.full((len(layers) * side - GAP, len(example.frames) * side - GAP, 3), 255, dtype=np.uint8)
    for row, pictures in enumerate(layers):
        for column, picture in enumerate(pictures):
            sheet[row * side : row * side + TILE, column * side : column * side + TILE] = _to_tile(picture)
    return sheet


def overlay(frame: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The frame in dark grey with coloured masked pixels: ``[H, W, 3]``, ``[H, W]`` -> ``[H, W, 3]`` uint8."""
    grey = frame.mean(axis=2, keepdims=True)
    dim = np.broadcast_to(0.4 * grey, frame.shape)
    bright = 0.35 * grey + 0.65 * np.array(color)
    return np.where(mask[..., None], bright, dim).round().astype(np.uint8)


def _to_tile(picture: np.ndarray) -> np.ndarray:
    """Resize to ``[TILE, TILE, 3]`` by nearest pixels, so that masks keep hard edges."""
    rows, columns = (np.arange(TILE) * length // TILE for length in picture.shape[:2])
    return picture[rows][:, columns]
