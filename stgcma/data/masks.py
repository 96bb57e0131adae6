"""Reader of AVSBench: a unit is one clip, and its target is the masks of some of its frames (method section 6.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stgcma.data.batch import AVBatch, MaskTargets
from stgcma.data.images import normalize_frames
from stgcma.data.png import decode_bits
from stgcma.data.reader import FRAME_COLUMNS, ReadContext, Reader, stack
from stgcma.data.sampler import Unit
from stgcma.errors import ConfigError, ShardMismatchError


@dataclass(frozen=True, kw_only=True)
class MaskExample:
    """One clip. A modality that is not read is None."""

    clip_id: str
    frames: Tensor | None
    """``[S, 3, N, N]`` float32."""
    fbank: Tensor | None
    """``[S, T, F]`` float32."""
    masks: Tensor
    """``[K, N, N]`` float32 {0, 1}."""
    frame_index: Tensor
    """``[K]`` int64: frames that have a mask."""
    category: str


class MaskReader(Reader):
    """Resizes frames and masks to the input size of the backbone. Nothing is augmented, as published.

    Raises:
        ConfigError: If augmentation is on.
        ShardMismatchError: If no mask of the split has any foreground.
    """

    def __init__(self, context: ReadContext) -> None:
        super().__init__(context)
        if context.augments:
            raise ConfigError(
                "data.augment.enabled: segmentation trains without augmentation, as published. Set it to false."
            )
        counts = context.manifest.mask_counts.get(context.split)
        if counts and counts.empty == counts.masks:
            raise ShardMismatchError(
                f"None of the {counts.masks} masks of split {context.split!r} in {context.store.uri} has any "
                "foreground, so a model can neither learn from them nor be scored on them. "
                "Check the mask files, then run stgcma-jobs preprocess again."
            )

    @property
    def num_units(self) -> int:
        return self.limited(self.context.store.num_clips(self.context.split))

    def example(self, unit: Unit) -> MaskExample:
        context, (_, number) = self.context, unit
        columns: tuple[str, ...] = ("clip_id", "masks", "mask_frames", "category")
        if context.reads_frames:
            columns += FRAME_COLUMNS
        if context.reads_audio:
            columns += context.fbank_columns
        row, size = context.row(number, columns), context.spec.image_size
        assert row.masks is not None
        assert row.mask_frames is not None
        frames = None
        if context.reads_frames:
            frames = normalize_frames(resize_square(context.decode_frames(row), size), *context.image_mean_std)
        return MaskExample(
            clip_id=row.clip_id,
            frames=frames,
            fbank=context.stored_fbank(row) if context.reads_audio else None,
            masks=torch.stack([decode_mask(mask, size) for mask in row.masks]),
            frame_index=torch.tensor(list(row.mask_frames), dtype=torch.int64),
            category=row.category or "",
        )

    def collate(self, examples: list[MaskExample]) -> AVBatch:
        first = examples[0].frame_index
        for example in examples:
            if not torch.equal(example.frame_index, first):
                raise ShardMismatchError(
                    f"Clips of one split need masks of the same frames, but in {self.context.store.uri} clip "
                    f"{examples[0].clip_id!r} has masks of frames {first.tolist()} and {example.clip_id!r} of "
                    f"{example.frame_index.tolist()}. Preprocess the dataset again."
                )
        return AVBatch(
            clip_ids=tuple(example.clip_id for example in examples),
            frames=stack([example.frames for example in examples]),
            fbank=stack([example.fbank for example in examples]),
            targets=MaskTargets(
                masks=torch.stack([example.masks for example in examples]),
                frame_index=first,
                categories=tuple(example.category for example in examples),
            ),
        )


def resize_square(frames: Tensor, size: int) -> Tensor:
    """Resize both sides to ``size``, whatever the aspect ratio: ``[S, H, W, 3] -> [S, size, size, 3]`` uint8.

    Official frames are stored at 224 x 224 and are returned unchanged.
    """
    if frames.shape[1:3] == (size, size):
        return frames
    planes = frames.permute(0, 3, 1, 2).contiguous()
    return F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1).contiguous()


def decode_mask(data: bytes, size: int) -> Tensor:
    """One-bit PNG -> ``[size, size]`` float32 {0, 1}. A mask of another size is resized to the nearest pixel."""
    mask = torch.from_numpy(decode_bits(data)).float()
    if mask.shape != (size, size):
        mask = F.interpolate(mask[None, None], size=(size, size), mode="nearest-exact")[0, 0]
    return mask
