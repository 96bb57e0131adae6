"""Log-mel filter banks of audio segments: the published geometries and a batched implementation (method section 6.1).

Shapes: ``L`` samples of a clip, ``S`` segments, ``n`` samples of a segment, ``T`` time frames, ``F`` mel bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stgcma.errors import ClipDecodeError

SAMPLE_RATE = 16_000
"""Hz. Preprocessing resamples every waveform to it."""


@dataclass(frozen=True, kw_only=True)
class FbankSpec:
    """One geometry. The filter banks of a clip have the shape ``[S, target_frames, num_mel_bins]``."""

    name: str
    segment_seconds: float
    """Length of the piece of the waveform that is cut for one segment."""
    guard_seconds: float
    """Segments start at ``linspace(0, num_samples - guard_seconds * 16000, S)`` if the clip is longer than this."""
    num_mel_bins: int
    frame_shift_ms: float
    target_frames: int
    """``T`` after cutting or padding. Padding frames are zero after normalisation."""
    published_mean: float
    published_std: float
    always_segment: bool = False
    """Whether clips shorter than the guard are cut into segments too, all starting at 0 (AVSBench)."""
    frame_length_ms: float = 25.0


FBANK_SPECS: dict[str, FbankSpec] = {
    spec.name: spec
    for spec in (
        FbankSpec(
            name="clip",
            segment_seconds=1.0,
            guard_seconds=1.1,
            num_mel_bins=128,
            frame_shift_ms=10.0,
            target_frames=102,
            published_mean=-4.1426,
            published_std=3.2001,
        ),
        FbankSpec(
            name="swin",
            segment_seconds=1.0,
            guard_seconds=1.1,
            num_mel_bins=224,
            frame_shift_ms=4.4,
            target_frames=224,
            published_mean=-4.1426,
            published_std=3.2001,
        ),
        FbankSpec(
            name="swin_avs",
            segment_seconds=1.95,
            guard_seconds=2.05,
            num_mel_bins=224,
            frame_shift_ms=4.4,
            target_frames=224,
            published_mean=-5.669627666473389,
            published_std=3.948380470275879,
            always_segment=True,
        ),
        FbankSpec(
            name="swin_avqa",
            segment_seconds=1.95,
            guard_seconds=2.05,
            num_mel_bins=224,
            frame_shift_ms=4.4,
            target_frames=224,
            published_mean=-5.214385986328125,
            published_std=3.8699076175689697,
        ),
        FbankSpec(
            name="demo",
            segment_seconds=1.0,
            guard_seconds=1.1,
            num_mel_bins=48,
            frame_shift_ms=20.0,
            target_frames=48,
            published_mean=-4.1426,
            published_std=3.2001,
        ),
    )
}

_PREEMPHASIS = 0.97
_LOW_HZ = 20.0
_MEL_GROUPS = 4
_FRAMES_AT_ONCE = 600
"""Frames per FFT call: few enough to stay in the processor's cache, and enough to pay for planning the FFT."""


def segment_starts(num_samples: int, spec: FbankSpec, num_segments: int) -> list[int]:
    """First sample of every segment: ``S`` equally spaced starts, truncated to integers.

    The guard keeps the last window inside the clip. The starts are therefore *not* whole seconds: with the specs of
    AVE, a 10 s clip gives 0, 15822, 31644, ... If the clip is not longer than the guard, every segment starts at 0.
    """
    last = num_samples - spec.guard_seconds * SAMPLE_RATE
    if last <= 0:
        return [0] * num_segments
    return np.linspace(0, last, num_segments).astype(int).tolist()


def segment_length(num_samples: int, spec: FbankSpec) -> int:
    """Samples per segment. A clip that is not longer than the guard is used whole, unless ``spec.always_segment``."""
    whole = num_samples <= round(spec.guard_seconds * SAMPLE_RATE) and not spec.always_segment
    return num_samples if whole else min(num_samples, round(spec.segment_seconds * SAMPLE_RATE))


def segment_fbanks(waveform: Tensor, spec: FbankSpec, num_segments: int) -> tuple[Tensor, int]:
    """Log-mel filter banks of all segments of a clip, or of a batch of equally long clips.

    The mean of the whole waveform is removed, and then the segments are cut. Slices of one filter bank of the whole
    clip would *not* give these numbers.

    Args:
        waveform: ``[..., L]`` int16, or float in [-1, 1]. 16 kHz mono.
        spec: Geometry of the fbank.
        num_segments: ``S``.

    Returns:
        ``[..., S, T, F]`` float32, not normalised and zero after the valid frames, and the number of valid frames.

    Raises:
        ClipDecodeError: If the waveform is shorter than one analysis window.
    """
    waveform = centred_waveform(waveform)
    num_samples = waveform.shape[-1]
    starts, length = segment_starts(num_samples, spec, num_segments), segment_length(num_samples, spec)
    distinct = starts if starts[-1] else starts[:1]
    segments = torch.stack([waveform[..., start : start + length] for start in distinct], dim=-2)
    fbank, valid_frames = fbank_frames(segments, spec)
    return fbank.expand(*fbank.shape[:-3], num_segments, -1, -1), valid_frames


def centred_waveform(waveform: Tensor) -> Tensor:
    """Waveform ``[..., L]``, int16 or float in [-1, 1] -> float32 ``[..., L]`` with the mean over ``L`` removed."""
    if waveform.dtype == torch.int16:
        samples = waveform.float().mul_(1 / 32768)
        return samples.sub_(samples.mean(dim=-1, keepdim=True))
    waveform = waveform.float()
    return waveform - waveform.mean(dim=-1, keepdim=True)


def fbank_frames(segments: Tensor, spec: FbankSpec) -> tuple[Tensor, int]:
    """Log-mel frames of waveform segments, cut or zero-padded to ``T``.

    The numbers are those of ``torchaudio.compliance.kaldi.fbank`` with a Hann window, no dither, no energy and Kaldi's
    other defaults (method section 6.1). Per frame: remove the mean, pre-emphasis 0.97, symmetric Hann window, zero-pad
    to a power of two, power spectrum, triangular mel filters from 20 Hz to Nyquist, logarithm floored at the float32
    epsilon. Frames after ``T`` are not computed. The window starts at exactly zero, so pre-emphasis can run over the
    segment instead of over each frame: ``x[j] - m - 0.97 (x[j-1] - m) = (x[j] - 0.97 x[j-1]) - 0.03 m``.

    Args:
        segments: ``[..., n]`` float samples.
        spec: Geometry of the fbank.

    Returns:
        ``[..., T, F]`` float32 with zeros after the valid frames, and the number of valid frames.

    Raises:
        ClipDecodeError: If a segment is shorter than one analysis window.
    """
    window_size, shift, _ = _frame_geometry(spec)
    num_samples = segments.shape[-1]
    if num_samples < window_size:
        raise ClipDecodeError(
            "fbank",
            "audio shorter than one analysis window",
            f"fbank {spec.name!r} needs at least {window_size} samples ({spec.frame_length_ms:g} ms at 16 kHz), "
            f"got {num_samples}",
        )
    valid_frames = min(spec.target_frames, 1 + (num_samples - window_size) // shift)
    segments = segments[..., : (valid_frames - 1) * shift + window_size]
    fbank = segments.new_empty(*segments.shape[:-1], spec.target_frames, spec.num_mel_bins)
    fbank[..., valid_frames:, :] = 0.0
    at_once = max(1, _FRAMES_AT_ONCE // valid_frames)
    flat = fbank.view(-1, *fbank.shape[-2:])[:, :valid_frames]
    for some, place in zip(segments.reshape(-1, segments.shape[-1]).split(at_once), flat.split(at_once), strict=True):
        torch.log(_mel_energies(some, spec), out=place)
    return fbank, valid_frames


def _mel_energies(segments: Tensor, spec: FbankSpec) -> Tensor:
    """Samples ``[N, n]`` -> mel energies ``[N, frames, F]``, floored at the float32 epsilon."""
    window_size, shift, fft_size = _frame_geometry(spec)
    means = segments.unfold(-1, window_size, shift).mean(dim=-1, keepdim=True)
    emphasised = F.pad(segments[..., 1:] - _PREEMPHASIS * segments[..., :-1], (1, 0)).unfold(-1, window_size, shift)
    frames = segments.new_empty(*emphasised.shape[:-1], fft_size)
    frames[..., window_size:] = 0.0
    windowed = frames[..., :window_size]
    torch.sub(emphasised, (1 - _PREEMPHASIS) * means, out=windowed).mul_(_window(spec, segments.device))
    spectrum = torch.fft.rfft(frames)[..., : fft_size // 2]
    power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
    mel = torch.cat([power[..., low:high] @ filters for low, high, filters in _mel_filters(spec, segments.device)], -1)
    return mel.clamp_(min=torch.finfo(torch.float32).eps)


def normalize_fbank(fbank: Tensor, valid_frames: int | Tensor, mean: float, std: float) -> Tensor:
    """``(x - mean) / (2 std)``, then zeros after the valid frames: padding is zero *after* normalisation.

    Args:
        fbank: ``[..., T, F]`` as ``segment_fbanks`` returns it.
        valid_frames: One number, or a tensor over the leading dimensions of ``fbank`` (``[B]`` for ``[B, S, T, F]``).
        mean: Mean of the raw log-mel values.
        std: Standard deviation of the raw log-mel values. The reference divides by twice this value.

    Returns:
        ``[..., T, F]`` float32.
    """
    normalised = (fbank.float() - mean).div_(2 * std)
    num_frames = fbank.shape[-2]
    if isinstance(valid_frames, Tensor):
        lead = (*valid_frames.shape, *[1] * (fbank.ndim - valid_frames.ndim))
        time = torch.arange(num_frames, device=fbank.device).unsqueeze(-1)
        return normalised.masked_fill_(time >= valid_frames.to(fbank.device).reshape(lead), 0.0)
    normalised[..., valid_frames:, :] = 0.0
    return normalised


def _frame_geometry(spec: FbankSpec) -> tuple[int, int, int]:
    """Window, shift and FFT size in samples. Kaldi truncates: a shift of 4.4 ms is 70 samples, not 70.4."""
    window_size = int(SAMPLE_RATE * spec.frame_length_ms * 0.001)
    shift = int(SAMPLE_RATE * spec.frame_shift_ms * 0.001)
    return window_size, shift, 1 << (window_size - 1).bit_length()


@lru_cache(maxsize=32)
def _window(spec: FbankSpec, device: torch.device) -> Tensor:
    """``[window_size]`` symmetric Hann window."""
    return torch.hann_window(_frame_geometry(spec)[0], periodic=False, dtype=torch.float32, device=device)


@lru_cache(maxsize=32)
def _mel_filters(spec: FbankSpec, device: torch.device) -> tuple[tuple[int, int, Tensor], ...]:
    """Triangular filters, equally spaced on Kaldi's mel scale ``1127 ln(1 + f / 700)``, in groups of neighbours.

    Each group is (first FFT bin, end, weights ``[bins, filters]``). A filter covers few bins, so the groups need a
    quarter of the products of one full matrix. If there are many filters, the lowest ones can fall between two FFT bins
    (16 of 224 do). They stay empty and give the constant floor. The slopes are computed in float32 as in Kaldi, because
    their fifth digit depends on it.
    """
    fft_size = _frame_geometry(spec)[2]
    low, high = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (_LOW_HZ, SAMPLE_RATE / 2))
    spacing = (high - low) / (spec.num_mel_bins + 1)
    edges = torch.arange(spec.num_mel_bins).unsqueeze(1)
    left, centre, right = low + edges * spacing, low + (edges + 1.0) * spacing, low + (edges + 2.0) * spacing
    mel = 1127.0 * (1.0 + (SAMPLE_RATE / fft_size) * torch.arange(fft_size // 2, dtype=torch.float32) / 700.0).log()
    rising, falling = (mel - left) / (centre - left), (right - mel) / (right - centre)
    groups = []
    for filters in torch.minimum(rising, falling).clamp_(min=0.0).chunk(_MEL_GROUPS):
        used = filters.any(0).nonzero().flatten()
        begin, end = int(used[0]), int(used[-1]) + 1
        groups.append((begin, end, filters[:, begin:end].T.contiguous().to(device)))
    return tuple(groups)
