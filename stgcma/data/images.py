"""Decode stored frames, and the evaluation transforms of the three tasks (method section 6.2).

Shape letters: ``S`` frames of a clip, ``H W`` pixels, ``N`` side of the square that the backbone reads. Decoded frames
are uint8 ``[S, H, W, 3]`` RGB, model inputs float32 ``[S, 3, N, N]``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.io import decode_jpeg as torchvision_decode_jpeg

from stgcma.backbone_spec import RGB

_FIXED_POINT_BITS = 11


def decode_jpeg(data: bytes) -> Tensor:
    """One JPEG file -> ``[H, W, 3]`` uint8."""
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return torchvision_decode_jpeg(encoded, mode=ImageReadMode.RGB).permute(1, 2, 0)


def decode_frames(frames: Sequence[bytes], encoding: str, height: int, width: int) -> Tensor:
    """Decode the frames of a row.

    Args:
        frames: ``ClipRow.frames``.
        encoding: ``ShardMetadata.frame_encoding``: ``jpeg`` or ``raw``.
        height: ``ClipRow.frame_height`` in pixels.
        width: ``ClipRow.frame_width`` in pixels.

    Returns:
        ``[S, H, W, 3]`` uint8.
    """
    decoded = torch.empty(len(frames), height, width, 3, dtype=torch.uint8)
    for target, data in zip(decoded, frames, strict=True):
        if encoding == "raw":
            target.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(height, width, 3))
        else:
            target.copy_(decode_jpeg(data))
    return decoded


def normalize_frames(frames: Tensor, mean: RGB, std: RGB) -> Tensor:
    """``(x / 255 - mean) / std``: ``[S, H, W, 3]`` uint8 -> ``[S, 3, H, W]`` float32. AVSBench needs nothing else."""
    planes = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return normalize_planes(planes, mean, std)


def normalize_planes(planes: Tensor, mean: RGB, std: RGB) -> Tensor:
    """``(x / 255 - mean) / std`` for ``[S, 3, H, W]`` float32 in grey levels 0-255, in place."""
    means, stds = torch.tensor(mean), torch.tensor(std)
    return planes.mul_((1 / (255 * stds)).view(3, 1, 1)).sub_((means / stds).view(3, 1, 1))


def resize_and_crop(frames: Tensor, size: int) -> Tensor:
    """Evaluation transform of AVE: resize the short side to ``size``, then take the central square.

    The bilinear resize works on uint8 as OpenCV does. The long side becomes ``int(size * ratio)``, and the crop starts
    at ``round((side - size) / 2)`` (half to even). Only the pixels inside the crop are computed.

    Args:
        frames: ``[S, H, W, 3]`` uint8.
        size: ``N``.

    Returns:
        ``[S, N, N, 3]`` uint8, equal to the result of OpenCV 4 in every pixel.
    """
    height, width = frames.shape[1:3]
    if height <= width:
        new_height, new_width = size, int(size * (width / height))
    else:
        new_height, new_width = int(size * (height / width)), size
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    if (new_height, new_width) == (height, width):
        return frames[:, top : top + size, left : left + size].contiguous()
    num_frames = frames.shape[0]
    first, second, weights = _linear_taps(width, new_width, left, size)
    channels = torch.arange(3)
    lines = frames.reshape(num_frames * height, width * 3).numpy()
    across = torch.zeros(num_frames, height, size * 3, dtype=torch.int32)
    for column, weight in zip((first, second), weights, strict=True):
        taps = np.take(lines, (column[:, None] * 3 + channels).flatten().numpy(), axis=1)
        across += torch.from_numpy(taps).view_as(across) * weight.repeat_interleave(3)
    across >>= 4
    upper, lower, weights = _linear_taps(height, new_height, top, size)
    down = torch.full((num_frames, size, size * 3), 2, dtype=torch.int32)
    for row, weight in zip((upper, lower), weights, strict=True):
        down += (across.index_select(1, row) * weight.view(-1, 1)) >> 16
    return (down >> 2).to(torch.uint8).view(num_frames, size, size, 3)


def _linear_taps(length: int, new_length: int, start: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels of each output pixel, ``[count]`` each, and their 11-bit weights ``[2, count]``."""
    position = ((np.arange(start, start + count) + 0.5) * (length / new_length) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int64)
    fraction = position - first.astype(np.float32)
    fraction[(first < 0) | (first >= length - 1)] = 0.0
    first = first.clip(0, length - 1)
    one = np.float32(1 << _FIXED_POINT_BITS)
    weights = np.rint(np.stack([(np.float32(1) - fraction) * one, fraction * one])).astype(np.int32)
    second = (first + 1).clip(max=length - 1)
    return torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(weights)


def resize_bicubic(frames: Tensor, size: int, mean: RGB, std: RGB, *, antialias: bool = False) -> Tensor:
    """Transform of MUSIC-AVQA: bicubic resize of floats to a square, whatever the aspect ratio, then normalisation.

    Args:
        frames: ``[S, H, W, 3]`` uint8.
        size: ``N``.
        mean: Mean of the channels, with pixels in [0, 1].
        std: Standard deviation of the channels, with pixels in [0, 1].
        antialias: Off, as published (the default of torchvision 0.15 for tensors).

    Returns:
        ``[S, 3, N, N]`` float32.
    """
    planes = frames.permute(0, 3, 1, 2).contiguous().float().div_(255)
    resized = F.interpolate(planes, size=(size, size), mode="bicubic", align_corners=False, antialias=antialias)
    means, stds = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return resized.sub_(means).div_(stds)
