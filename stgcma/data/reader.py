"""From stored rows to batches: the base class of the readers of the three annotation kinds.

A reader is a view of one split. It counts its units (clips, or videos with questions), makes an example from a unit and
a batch from several examples. It holds no random state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stgcma.backbone_spec import RGB, BackboneSpec
from stgcma.config import Branch, DataConfig
from stgcma.data.batch import AVBatch
from stgcma.data.fbank import FBANK_SPECS, FbankSpec, normalize_fbank
from stgcma.data.images import decode_frames
from stgcma.data.manifest import ShardManifest
from stgcma.data.sampler import Unit
from stgcma.data.schema import ClipRow, fbank_column
from stgcma.data.store import ShardStore
from stgcma.errors import ShardMismatchError


@dataclass(frozen=True, kw_only=True)
class ReadContext:
    """All settings that determine the tensors of a split."""

    data: DataConfig
    spec: BackboneSpec
    fbank_name: str
    """Filter bank that the backbone reads for the task."""
    store: ShardStore
    split: str
    train: bool
    """Whether augmentation and ``data.limit_train_clips`` apply."""
    seed: int
    branches: tuple[Branch, ...]
    """Branches that run. The columns of the other branch are not read."""
    global_batch: int = 1
    """Units of one training step over all workers."""
    world_size: int = 1

    @property
    def manifest(self) -> ShardManifest:
        return self.store.manifest

    @property
    def reads_frames(self) -> bool:
        return "visual" in self.branches

    @property
    def reads_audio(self) -> bool:
        return "audio" in self.branches

    @property
    def augments(self) -> bool:
        return self.train and self.data.augment.enabled

    @property
    def fbank(self) -> FbankSpec:
        """Geometry of the filter bank."""
        return FBANK_SPECS[self.fbank_name]

    @property
    def fbank_columns(self) -> tuple[str, str]:
        column = fbank_column(self.fbank.name)
        return column, f"{column}_frames"

    @property
    def fbank_mean_std(self) -> tuple[float, float]:
        """Mean and std measured on the training clips, or the constants of the reference (``data.normalization``).

        Raises:
            ShardMismatchError: If the shards store no measured mean and std.
        """
        if self.data.normalization == "published":
            return self.fbank.published_mean, self.fbank.published_std
        if self.fbank.name not in self.manifest.stats:
            raise ShardMismatchError(
                f"{self.store.uri} has no measured mean and std of fbank {self.fbank.name!r}: it was made without "
                "training clips. Preprocess the training split too, or set data.normalization: published."
            )
        stats = self.manifest.stats[self.fbank.name]
        return stats.mean, stats.std

    @property
    def image_mean_std(self) -> tuple[RGB, RGB]:
        """Mean and std of the frames with which the backbone was trained."""
        return self.spec.image_mean, self.spec.image_std

    def rng(self, unit: Unit, stream: int) -> np.random.Generator:
        """The generator of one unit in one epoch. Streams make the draws of the two modalities independent."""
        epoch, number = unit
        return np.random.default_rng((self.seed, epoch, number, stream))

    def row(self, number: int, columns: tuple[str, ...], *, split: str | None = None) -> ClipRow:
        """Clip ``number`` in the order of the ids, of this split unless another is given."""
        return self.store.row(split or self.split, number, columns)

    def decode_frames(self, row: ClipRow) -> Tensor:
        """The frames of a row, ``[S, H, W, 3]`` uint8."""
        return decode_frames(row.frames, self.manifest.metadata.frame_encoding, row.frame_height, row.frame_width)

    def stored_fbank(self, row: ClipRow) -> Tensor:
        """The stored filter banks of a row, normalised: ``[S, T, F]`` float32."""
        name = self.fbank.name
        values = torch.from_numpy(row.fbanks[name].astype(np.float32))
        return normalize_fbank(values, row.fbank_frames[name], *self.fbank_mean_std)


FRAME_COLUMNS = ("frames", "frame_height", "frame_width")
VISUAL_STREAM, AUDIO_STREAM = 0, 1


class Reader(ABC):
    """Makes examples and batches from one split with one kind of annotation. ``Task.reader`` names the class."""

    def __init__(self, context: ReadContext) -> None:
        self.context = context

    @property
    @abstractmethod
    def num_units(self) -> int:
        """Number of units. ``example`` accepts the numbers ``0`` to ``num_units - 1``."""

    @abstractmethod
    def example(self, unit: Unit) -> Any:
        """One unit as CPU tensors. The result depends only on (seed, epoch, number), and can be pickled."""

    @abstractmethod
    def collate(self, examples: list[Any]) -> AVBatch:
        """Join several examples into one batch."""

    def limited(self, num_units: int) -> int:
        """``num_units``, limited by ``data.limit_train_clips`` in training."""
        limit = self.context.data.limit_train_clips
        return num_units if limit is None or not self.context.train else min(num_units, limit)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a task reads; ``Task.reading`` makes it."""

    reader: type[Reader]
    annotation: str
    """``ShardMetadata.annotation`` that the reader understands."""
    fbank: str
    """Name of the filter bank. It is read if the audio branch runs."""


def stack(tensors: list[Tensor | None]) -> Tensor | None:
    """Stack tensors of equal shape; None if the modality is not read."""
    read = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(read) if read else None
