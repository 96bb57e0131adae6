"""Golden checks of the data path: filter banks, waveform mix-up and image transforms."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stgcma.backbone_spec import IMAGENET_MEAN, IMAGENET_STD
from stgcma.data.augment import mixed_fbanks
from stgcma.data.fbank import FBANK_SPECS, normalize_fbank, segment_fbanks
from stgcma.data.images import normalize_frames, resize_and_crop, resize_bicubic
from stgcma.parity.compare import Check, relative_l2

Tensors = dict[str, Tensor]
OUTPUT_TOLERANCE = 1e-5
PIXEL_STEP_TOLERANCE = 1.0
"""Largest difference of the AVE transform, in grey levels before normalisation."""
FLOAT_NOISE_STEPS = 1e-3
"""Largest difference of the AVQA transform, in the same unit."""

_GEOMETRIES = {"ave_clip": ("clip", 10), "ave_swin": ("swin", 10), "avs": ("swin_avs", 5), "avqa": ("swin_avqa", 10)}
"""Prefix of the names in the file -> (fbank spec, number of segments)."""
_SUBSAMPLED_FRAMES = 8
_MIXUP_PARTNER_SECONDS = "8p5s"


def check_audio_frontend(file: Path, device: str) -> list[Check]:
    """Check every filter bank of the file, with the published normalisation, and the statistics of segments."""
    tensors = load_file(file, device=device)
    fbanks: dict[tuple[str, str], Tensor] = {}

    def fbank(prefix: str, seconds: str) -> Tensor:
        if (prefix, seconds) not in fbanks:
            name, num_segments = _GEOMETRIES[prefix]
            raw = segment_fbanks(tensors[f"audio.wav_{seconds}_int16"], FBANK_SPECS[name], num_segments)
            fbanks[prefix, seconds] = _normalized(name, *raw)
        return fbanks[prefix, seconds]

    checks = []
    for name, expected in tensors.items():
        match = re.fullmatch(r"audio\.([a-z]+(?:_[a-z]+)?)\.(?!mixup_lambda)(\w+)", name)
        if match is None:
            continue
        prefix, what = match.groups()
        seconds = "5s" if prefix == "avs" else "10s"
        if short := re.fullmatch(r"short_(\w+?s)_(seg\d+_sub)", what):
            seconds, what = short.groups()
        if mixup := re.fullmatch(r"mixup_a_b_seg(\d+)", what):
            got = _mixed(prefix, tensors)[int(mixup[1])]
        elif segment := re.fullmatch(r"seg(\d+)(_sub)?", what):
            got = fbank(prefix, seconds)[int(segment[1])]
            got = got[::_SUBSAMPLED_FRAMES] if segment[2] else got
        else:
            values = fbank(prefix, seconds)
            got = values.mean((1, 2)) if what == "all_mean" else values.std((1, 2))
        checks.append(Check(f"output.{name}", relative_l2(got, expected), OUTPUT_TOLERANCE))
    return checks


def _normalized(spec_name: str, raw: Tensor, valid_frames: int) -> Tensor:
    spec = FBANK_SPECS[spec_name]
    return normalize_fbank(raw, valid_frames, spec.published_mean, spec.published_std)


def _mixed(prefix: str, tensors: Tensors) -> Tensor:
    name, num_segments = _GEOMETRIES[prefix]
    weights = (tensors[f"audio.{prefix}.mixup_lambda"].item(),) * num_segments
    waveform, partner = (tensors[f"audio.wav_{seconds}_int16"] for seconds in ("10s", _MIXUP_PARTNER_SECONDS))
    return _normalized(name, *mixed_fbanks(waveform, partner, weights, FBANK_SPECS[name]))


def check_image_transforms(file: Path, device: str) -> list[Check]:
    """Check the transforms of AVE and AVQA. Both run on the CPU."""
    tensors = load_file(file)
    checks = []
    for name, expected in tensors.items():
        if match := re.fullmatch(r"ave_eval\.(\w+)\.out", name):
            frames = tensors[f"ave_eval.{match[1]}.frames_uint8"]
            got = normalize_frames(resize_and_crop(frames, expected.shape[-1]), IMAGENET_MEAN, IMAGENET_STD)
            got = got.transpose(0, 1)
            checks.append(Check(f"steps.{name}", _grey_levels(got, expected), PIXEL_STEP_TOLERANCE))
        elif match := re.fullmatch(r"avqa_eval\.(\w+)\.out_antialias_(True|False)", name):
            frame = tensors[f"ave_eval.{match[1]}.frames_uint8"][:1]
            antialias = match[2] == "True"
            got = resize_bicubic(frame, expected.shape[-1], IMAGENET_MEAN, IMAGENET_STD, antialias=antialias)[0]
            checks.append(Check(f"exact.{name}", _grey_levels(got, expected), FLOAT_NOISE_STEPS))
    return checks


def _grey_levels(got: Tensor, expected: Tensor) -> float:
    """Largest difference between two normalised images ``[3, ...]``, in grey levels 0-255."""
    if got.shape != expected.shape:
        raise ValueError(f"needs images of equal shapes, got {list(got.shape)} and {list(expected.shape)}")
    std = torch.tensor(IMAGENET_STD, device=got.device).view(3, *[1] * (got.ndim - 1))
    return ((got - expected).abs() * std * 255).max().item()


FRONTEND_CASES: dict[str, tuple[Callable[[set[str], dict[str, Any]], bool], Callable[[Path, str], list[Check]]]] = {
    "audio_frontend": (lambda names, _: any(n.startswith("audio.wav_") for n in names), check_audio_frontend),
    "image_transforms": (lambda names, _: any(n.startswith("ave_eval.") for n in names), check_image_transforms),
}
"""Case -> (function that recognises a file, function that checks it), for ``stgcma.parity.verify.CASES``."""
