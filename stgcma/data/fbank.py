"""Log-mel filter banks of audio segments: the published geometries and one batched implementation.

``FBANK_SPECS`` is the only place that states window, shift, bins and padded length (method section 6.1).
"""

from __future__ import annotations

from dataclasses import dataclass

SAMPLE_RATE = 16_000
"""Hz; every waveform is resampled to it before anything else."""


@dataclass(frozen=True, kw_only=True)
class FbankSpec:
    """One fbank geometry. Shape per clip: ``[S, target_frames, num_mel_bins]``."""

    name: str
    segment_seconds: float
    """Window cut out of the waveform for one segment."""
    guard_seconds: float
    """Starts are ``linspace(0, num_samples - guard_seconds * 16000, S)``; applied when the clip is longer."""
    num_mel_bins: int
    frame_shift_ms: float
    target_frames: int
    """Time frames after cutting / zero-padding (padding is applied after normalisation)."""
    published_mean: float
    published_std: float
    always_segment: bool = False
    """AVSBench segments even clips shorter than the guard (start clamped at 0)."""
    frame_length_ms: float = 25.0


FBANK_SPECS: dict[str, FbankSpec] = {
    spec.name: spec
    for spec in (
        FbankSpec(
            name="clip", segment_seconds=1.0, guard_seconds=1.1, num_mel_bins=128, frame_shift_ms=10.0,
            target_frames=102, published_mean=-4.1426, published_std=3.2001,
        ),
        FbankSpec(
            name="swin", segment_seconds=1.0, guard_seconds=1.1, num_mel_bins=224, frame_shift_ms=4.4,
            target_frames=224, published_mean=-4.1426, published_std=3.2001,
        ),
        FbankSpec(
            name="swin_avs", segment_seconds=1.95, guard_seconds=2.05, num_mel_bins=224, frame_shift_ms=4.4,
            target_frames=224, published_mean=-5.669627666473389, published_std=3.948380470275879, always_segment=True,
        ),
        FbankSpec(
            name="swin_avqa", segment_seconds=1.95, guard_seconds=2.05, num_mel_bins=224, frame_shift_ms=4.4,
            target_frames=224, published_mean=-5.214385986328125, published_std=3.8699076175689697,
        ),
        FbankSpec(
            name="demo", segment_seconds=1.0, guard_seconds=1.1, num_mel_bins=48, frame_shift_ms=20.0,
            target_frames=48, published_mean=-4.1426, published_std=3.2001,
        ),
    )
}  # fmt: skip
