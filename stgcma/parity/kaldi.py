"""Check our filter banks against their definition, the Kaldi filter bank of torchaudio.

The check needs no file, because it draws a waveform from a fixed seed. Every ``stgcma-jobs verify`` runs it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stgcma.data.fbank import (
    FBANK_SPECS,
    SAMPLE_RATE,
    FbankSpec,
    centred_waveform,
    segment_fbanks,
    segment_length,
    segment_starts,
)
from stgcma.parity.compare import Check, SkippedFile, relative_l2

NUM_SEGMENTS = 5
SECONDS = 5.2
TOLERANCE = 1e-5


def kaldi_fbank(segment: Tensor, spec: FbankSpec) -> Tensor:
    """The filter bank of torchaudio: ``[1, n]`` samples in [-1, 1] -> ``[frames, F]`` (method section 6.1).

    Raises:
        SkippedFile: If torchaudio is not installed.
    """
    try:
        from torchaudio.compliance import kaldi  # optional: the library works without torchaudio
    except ImportError as error:
        raise SkippedFile(f"torchaudio is not installed ({error})") from None
    return kaldi.fbank(
        segment,
        htk_compat=True,
        sample_frequency=SAMPLE_RATE,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=spec.num_mel_bins,
        dither=0.0,
        frame_shift=spec.frame_shift_ms,
        frame_length=spec.frame_length_ms,
    )


def check_filter_banks() -> list[Check]:
    """Relative L2 error over all segments of a clip, one check per spec."""
    generator = torch.Generator().manual_seed(0)
    num_samples = round(SECONDS * SAMPLE_RATE)
    time = torch.arange(num_samples) / SAMPLE_RATE
    tone = 0.3 * torch.sin(2 * torch.pi * (200 + 600 * time) * time)
    waveform = tone + 0.02 * torch.randn(num_samples, generator=generator)
    return [Check(f"fbank.{name}", _error(waveform, spec), TOLERANCE) for name, spec in FBANK_SPECS.items()]


def _error(waveform: Tensor, spec: FbankSpec) -> float:
    ours, valid_frames = segment_fbanks(waveform, spec, NUM_SEGMENTS)
    centred, length = centred_waveform(waveform), segment_length(len(waveform), spec)
    starts = segment_starts(len(waveform), spec, NUM_SEGMENTS)
    theirs = torch.stack([kaldi_fbank(centred[None, start : start + length], spec)[:valid_frames] for start in starts])
    return relative_l2(ours[:, :valid_frames], theirs)
