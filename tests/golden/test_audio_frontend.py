"""Filter banks, mix-up and segment starts against the numbers of the reference and against torchaudio."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stgcma.data.augment import mixed_fbanks
from stgcma.data.fbank import (
    FBANK_SPECS,
    SAMPLE_RATE,
    centred_waveform,
    fbank_frames,
    normalize_fbank,
    segment_fbanks,
    segment_starts,
)
from stgcma.errors import ClipDecodeError
from stgcma.parity.compare import relative_l2
from stgcma.parity.frontend import check_audio_frontend
from stgcma.parity.kaldi import kaldi_fbank
from stgcma.parity.verify import verify_filter_banks

GOLDEN = Path(__file__).parent
FILE = GOLDEN / "audio_frontend.safetensors"
SCALARS = json.loads((GOLDEN / "scalars.json").read_text())


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(FILE)


def test_our_filter_banks_equal_those_of_torchaudio():
    report = verify_filter_banks()
    assert report.passed, report.failures()
    assert len(report.checks) == len(FBANK_SPECS)


def test_the_comparison_with_torchaudio_fails_on_other_numbers(monkeypatch):
    monkeypatch.setattr("stgcma.data.fbank._PREEMPHASIS", 0.9701)
    assert not verify_filter_banks().passed


def test_every_reference_fbank_is_reproduced(golden):
    checks = {check.name.removeprefix("output."): check for check in check_audio_frontend(FILE, "cpu")}
    expected = {n for n in golden if not n.startswith("audio.wav_") and not n.endswith("mixup_lambda")}
    assert set(checks) == expected, "not every reference tensor was compared"
    assert {name: check.error for name, check in checks.items() if not check.passed} == {}


def test_the_check_fails_on_other_numbers(golden, tmp_path):
    changed = {**golden, "audio.avs.seg3": golden["audio.avs.seg3"] * 1.0001}
    save_file(changed, tmp_path / "changed.safetensors")
    failed = [check.name for check in check_audio_frontend(tmp_path / "changed.safetensors", "cpu") if not check.passed]
    assert failed == ["output.audio.avs.seg3"]


@pytest.mark.parametrize(
    ("spec", "key", "num_samples"),
    [
        ("clip", "ave_segment_starts_10s", 160_000),
        ("swin", "ave_segment_starts_10s", 160_000),
        ("swin_avs", "avs_segment_starts_5s", 80_000),
        ("swin_avqa", "avqa_segment_starts_60s", 960_000),
    ],
)
def test_segment_starts(spec, key, num_samples):
    assert segment_starts(num_samples, FBANK_SPECS[spec], len(SCALARS[key])) == SCALARS[key]


@pytest.mark.parametrize("name", FBANK_SPECS)
@pytest.mark.parametrize("seconds", [10.0, 2.0, 1.05, 0.5])
def test_all_segments_equal_torchaudio_segment_by_segment(golden, name, seconds):
    spec, num_segments = FBANK_SPECS[name], 5
    waveform = golden["audio.wav_10s_int16"][: round(seconds * SAMPLE_RATE)]
    fbank, valid_frames = segment_fbanks(waveform, spec, num_segments)
    assert fbank.shape == (num_segments, spec.target_frames, spec.num_mel_bins)
    centred = waveform.float() / 32768
    centred = centred - centred.mean()
    whole = len(waveform) <= spec.guard_seconds * SAMPLE_RATE and not spec.always_segment
    length = len(waveform) if whole else round(spec.segment_seconds * SAMPLE_RATE)
    for segment, start in enumerate(segment_starts(len(waveform), spec, num_segments)):
        expected = kaldi_fbank(centred[None, start : start + length], spec)[: spec.target_frames]
        assert valid_frames == len(expected)
        assert relative_l2(fbank[segment, :valid_frames], expected) < 1e-5
        assert (fbank[segment, valid_frames:] == 0).all()


def test_frame_counts_and_empty_bins(golden):
    waveform = golden["audio.wav_10s_int16"]
    for name, key in (("clip", "shift10"), ("swin", "shift4.4")):
        fbank, valid_frames = segment_fbanks(waveform, FBANK_SPECS[name], 10)
        assert valid_frames == SCALARS["raw_frames_1s"][key]
    floor = (fbank[:, :valid_frames] == fbank[0, 0, SCALARS["empty_mel_bins_224"][0]]).all(0).all(0)
    assert floor.nonzero().flatten().tolist() == SCALARS["empty_mel_bins_224"]
    assert fbank[0, 0, 2].item() == pytest.approx(SCALARS["empty_mel_bin_value"], abs=1e-6)


def test_a_batch_of_clips_equals_clip_by_clip(golden):
    spec = FBANK_SPECS["clip"]
    clips = torch.stack([golden["audio.wav_10s_int16"], golden["audio.wav_10s_int16"].flip(0)])
    together, valid_frames = segment_fbanks(clips, spec, 10)
    for clip, fbank in zip(clips, together, strict=True):
        alone, valid_alone = segment_fbanks(clip, spec, 10)
        assert valid_alone == valid_frames
        assert relative_l2(fbank, alone) < 1e-6


def test_slicing_one_whole_clip_fbank_gives_other_numbers(golden):
    """Segments must be cut first, because their starts do not lie on the frame grid of the whole clip."""
    spec = FBANK_SPECS["clip"]
    fbank, valid_frames = segment_fbanks(golden["audio.wav_10s_int16"], spec, 10)
    whole = kaldi_fbank(centred_waveform(golden["audio.wav_10s_int16"])[None], spec)
    sliced = whole[round(15822 / 160) :][:valid_frames]
    assert relative_l2(fbank[1, :valid_frames], sliced) > 1e-3


def test_silence_gives_the_constant_floor():
    fbank, valid_frames = segment_fbanks(torch.zeros(160_000, dtype=torch.int16), FBANK_SPECS["clip"], 10)
    assert fbank[:, :valid_frames].unique().tolist() == pytest.approx([SCALARS["empty_mel_bin_value"]], abs=1e-6)


def test_padding_is_zero_after_normalisation():
    raw = torch.full((2, 3, 8, 4), -4.0)
    normalised = normalize_fbank(raw, 5, mean=-2.0, std=0.5)
    assert (normalised[..., :5, :] == -2.0).all()
    assert (normalised[..., 5:, :] == 0).all()
    per_clip = normalize_fbank(raw, torch.tensor([5, 2]), mean=-2.0, std=0.5)
    assert torch.equal(per_clip[0], normalised[0])
    assert (per_clip[1, :, :2] == -2.0).all()
    assert (per_clip[1, :, 2:] == 0).all()


def test_audio_shorter_than_one_window_is_rejected():
    with pytest.raises(ClipDecodeError, match=r"audio shorter than one analysis window.*400 samples.*got 399"):
        segment_fbanks(torch.zeros(399), FBANK_SPECS["clip"], 10)
    assert fbank_frames(torch.zeros(1, 400), FBANK_SPECS["clip"])[1] == 1


@pytest.mark.parametrize("name", ["clip", "swin"])
@pytest.mark.parametrize("lengths", [(160_000, 136_000), (136_000, 160_000), (16_800, 160_000), (160_000, 16_800)])
def test_mixup_equals_mixing_segment_by_segment(golden, name, lengths):
    """Expected numbers: for every segment, mix the whole waveforms, remove the mean, cut, and run torchaudio."""
    spec, num_segments = FBANK_SPECS[name], 10
    main, other = (golden["audio.wav_10s_int16"], golden["audio.wav_8p5s_int16"].repeat(2))
    main, other = main[: lengths[0]], other[: lengths[1]]
    weights = tuple(torch.linspace(0.2, 0.8, num_segments).tolist())
    fbank, valid_frames = mixed_fbanks(main, other, weights, spec)
    a, b = (w.float() / 32768 - (w.float() / 32768).mean() for w in (main, other))
    partner = torch.zeros_like(a)
    partner[: min(len(a), len(b))] = b[: len(a)]
    starts = segment_starts(len(a), spec, num_segments)
    length = len(a) if starts[-1] == 0 else SAMPLE_RATE
    for segment, (start, weight) in enumerate(zip(starts, weights, strict=True)):
        mixed = weight * a + (1 - weight) * partner
        mixed = mixed - mixed.mean()
        expected = kaldi_fbank(mixed[None, start : start + length], spec)[: spec.target_frames]
        assert valid_frames == len(expected)
        assert relative_l2(fbank[segment, :valid_frames], expected) < 1e-5
