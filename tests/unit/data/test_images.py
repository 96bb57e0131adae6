"""Decoding and evaluation transforms on sizes that the reference vectors do not cover."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
import torch
import torch.nn.functional as F

from stgcma.backbone_spec import IMAGENET_MEAN, IMAGENET_STD
from stgcma.data.images import decode_frames, normalize_frames, resize_and_crop
from tests.factories import jpeg, tiny_frame


def test_jpeg_frames_decode_to_their_pixels():
    frames = [tiny_frame(seed, 48, 64) for seed in range(3)]
    decoded = decode_frames([jpeg(frame) for frame in frames], "jpeg", 48, 64)
    assert decoded.shape == (3, 48, 64, 3)
    for got, frame in zip(decoded, frames, strict=True):
        assert np.abs(got.numpy().astype(int) - simplejpeg.decode_jpeg(jpeg(frame)).astype(int)).max() <= 1
        assert np.abs(got.numpy().astype(int) - frame).mean() < 4


def test_raw_frames_decode_exactly():
    frames = [tiny_frame(seed, 48, 64) for seed in range(2)]
    decoded = decode_frames([frame.tobytes() for frame in frames], "raw", 48, 64)
    assert torch.equal(decoded, torch.from_numpy(np.stack(frames)))


def test_normalisation_is_to_tensor_and_imagenet_statistics():
    frames = torch.from_numpy(tiny_frame(0))[None]
    expected = (frames.permute(0, 3, 1, 2) / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(
        IMAGENET_STD
    ).view(3, 1, 1)
    torch.testing.assert_close(normalize_frames(frames, IMAGENET_MEAN, IMAGENET_STD), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 100), (100, 33), (20, 20), (224, 224), (225, 400)])
def test_short_side_resize_stays_within_one_step_of_float_bilinear(size):
    frames = torch.from_numpy(tiny_frame(1, *size))[None]
    target, (height, width) = 32, size
    new = (target, int(target * (width / height))) if height <= width else (int(target * (height / width)), target)
    floats = F.interpolate(frames.permute(0, 3, 1, 2).float(), size=new, mode="bilinear", align_corners=False)
    top, left = round((new[0] - target) / 2), round((new[1] - target) / 2)
    expected = floats[..., top : top + target, left : left + target].permute(0, 2, 3, 1)
    assert (resize_and_crop(frames, target).float() - expected).abs().max() <= 1.0


def test_the_crop_offset_rounds_half_to_even():
    """45 -> 32: 6.5 rounds to 6; 47 -> 32: 7.5 rounds to 8."""
    for width, left in ((45, 6), (47, 8)):
        frames = torch.arange(width, dtype=torch.uint8).view(1, 1, width, 1).expand(1, 32, width, 3)
        assert resize_and_crop(frames, 32)[0, 0, :, 0].tolist() == list(range(left, left + 32))
