"""Reader of AVE: a unit is one clip, and its target is the class of every segment (method sections 6.1-6.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stgcma.data.augment import augment_frames, draw_mixup, draw_visual, mixed_fbanks
from stgcma.data.batch import AVBatch, EventTargets
from stgcma.data.fbank import normalize_fbank
from stgcma.data.images import normalize_frames, resize_and_crop
from stgcma.data.reader import AUDIO_STREAM, FRAME_COLUMNS, VISUAL_STREAM, ReadContext, Reader, stack
from stgcma.data.sampler import Unit
from stgcma.data.schema import ClipRow
from stgcma.errors import ShardMismatchError


@dataclass(frozen=True, kw_only=True)
class EventExample:
    """One clip. A modality that is not read is None."""

    clip_id: str
    frames: Tensor | None
    """``[S, 3, N, N]`` float32."""
    fbank: Tensor | None
    """``[S, T, F]`` float32."""
    labels: Tensor
    """``[S]`` int64."""


class EventReader(Reader):
    """Augments and mixes training clips. Other clips get the central square of the frames and the stored filter banks.

    Raises:
        ShardMismatchError: If mix-up is on but the shards store no waveforms.
    """

    def __init__(self, context: ReadContext) -> None:
        super().__init__(context)
        self.mixes = context.augments and context.reads_audio and context.data.augment.mixup_probability > 0
        metadata = context.manifest.metadata
        if self.mixes and not metadata.stores_waveform:
            raise ShardMismatchError(
                f"{context.store.uri} stores no waveforms, which audio mix-up needs. Preprocess with waveforms, "
                "or set data.augment.mixup_probability: 0."
            )

    @property
    def num_units(self) -> int:
        return self.limited(self.context.store.num_clips(self.context.split))

    def example(self, unit: Unit) -> EventExample:
        context, (_, number) = self.context, unit
        mixup = None
        if self.mixes:
            rng = context.rng(unit, AUDIO_STREAM)
            mixup = draw_mixup(context.data.augment, context.manifest.metadata.num_segments, self.num_units, rng)
        columns: tuple[str, ...] = ("clip_id", "event_labels")
        if context.reads_frames:
            columns += FRAME_COLUMNS
        if context.reads_audio:
            columns += ("waveform",) if mixup else context.fbank_columns
        row = context.row(number, columns)
        fbank = None
        if mixup is not None:
            partner = context.row(mixup.partner, ("waveform",))
            mixed = mixed_fbanks(_waveform(row), _waveform(partner), mixup.weights, context.fbank)
            fbank = normalize_fbank(*mixed, *context.fbank_mean_std)
        elif context.reads_audio:
            fbank = context.stored_fbank(row)
        return EventExample(
            clip_id=row.clip_id,
            frames=self._frames(row, unit) if context.reads_frames else None,
            fbank=fbank,
            labels=torch.from_numpy(row.event_labels).long(),
        )

    def _frames(self, row: ClipRow, unit: Unit) -> Tensor:
        context, size = self.context, self.context.spec.image_size
        frames = context.decode_frames(row)
        if not context.augments:
            return normalize_frames(resize_and_crop(frames, size), *context.image_mean_std)
        rng = context.rng(unit, VISUAL_STREAM)
        draw = draw_visual(context.data.augment, row.frame_height, row.frame_width, size, rng)
        return augment_frames(frames, draw, size, *context.image_mean_std)

    def collate(self, examples: list[EventExample]) -> AVBatch:
        return AVBatch(
            clip_ids=tuple(example.clip_id for example in examples),
            frames=stack([example.frames for example in examples]),
            fbank=stack([example.fbank for example in examples]),
            targets=EventTargets(labels=torch.stack([example.labels for example in examples])),
        )


def _waveform(row: ClipRow) -> Tensor:
    assert row.waveform is not None
    return torch.from_numpy(row.waveform.copy())
