"""Decoded sound at 16 kHz mono: level, channels, timing, length, damage."""

import av
import numpy as np
import pytest
import torch

from pipelines.media.audio import decode_audio, fit_length
from pipelines.media.probing import open_media, probe, probe_sound
from stgcma.data.fbank import FBANK_SPECS, SAMPLE_RATE, segment_fbanks
from stgcma.errors import ClipDecodeError
from tests.media import TONES_HZ, tones, write_clip
from tests.shared_data import shared_dir


def decoded(path, **options):
    return decode_audio(probe(path), **{"channel_mode": "mean", "resample": "sinc", **options})


def dominant_hz(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return spectrum.argmax() * SAMPLE_RATE / len(samples)


def mel_bin_of(frequency, num_bins):
    """Index of the mel filter with the nearest centre, on Kaldi's mel scale from 20 Hz to Nyquist."""
    low, high, mel = (1127 * np.log(1 + hz / 700) for hz in (20.0, SAMPLE_RATE / 2, frequency))
    return round((mel - low) / ((high - low) / (num_bins + 1)) - 1)


def test_pcm_at_16_khz_passes_unchanged(tmp_path):
    noise = np.random.default_rng(0).integers(-20000, 20000, 32000).astype(np.int16)
    path = write_clip(
        tmp_path / "pcm.mov", waveform=noise[None] / np.float32(32767), sample_rate=16_000, audio_codec="pcm_s16le"
    )
    np.testing.assert_array_equal(decoded(path)[:32000], noise)


@pytest.mark.parametrize("sample_rate", [44_100, 48_000, 22_050, 16_000])
def test_every_second_has_its_tone_and_level(tmp_path, sample_rate):
    waveform = decoded(write_clip(tmp_path / "clip.mp4", seconds=4, sample_rate=sample_rate))
    assert waveform.dtype == np.int16
    for second in range(4):
        inner = waveform[second * SAMPLE_RATE + 1600 : (second + 1) * SAMPLE_RATE - 1600].astype(float)
        assert dominant_hz(inner) == pytest.approx(TONES_HZ[second], abs=2)
        assert np.sqrt(2) * inner.std() / 32768 == pytest.approx(0.5, rel=0.03)


def test_fbank_of_every_segment_peaks_at_its_tone(tmp_path):
    waveform, _ = fit_length(decoded(write_clip(tmp_path / "clip.mp4", seconds=6)), 6.0)
    for name in ("clip", "swin"):
        spec = FBANK_SPECS[name]
        fbank, valid = segment_fbanks(torch.from_numpy(waveform), spec, 6)
        middle = fbank[:, valid // 3 : 2 * valid // 3].mean(dim=1)
        expected = [mel_bin_of(hz, spec.num_mel_bins) for hz in TONES_HZ]
        assert all(abs(int(got) - want) <= 1 for got, want in zip(middle.argmax(dim=1), expected, strict=True))


def test_resampling_is_in_step_and_does_not_alias(tmp_path):
    time = np.arange(2 * 48_000) / 48_000
    click = np.exp(-0.5 * ((time - 1.0) / 0.0005) ** 2) * 0.8
    path = write_clip(tmp_path / "click.mov", waveform=click[None], sample_rate=48_000, audio_codec="pcm_s16le")
    assert abs(int(decoded(path).argmax()) - SAMPLE_RATE) <= 1
    high = write_clip(
        tmp_path / "high.mov", waveform=tones(2, 48_000, [11_000.0])[None], sample_rate=48_000, audio_codec="pcm_s16le"
    )
    assert np.abs(decoded(high)[1600:-1600]).max() < 330  # 0.5 in, 1 % left above Nyquist
    aliased = decoded(high, resample="nearest_moviepy")[1600:-1600]
    assert dominant_hz(aliased) == pytest.approx(SAMPLE_RATE - 11_000, abs=30)


def test_channel_modes_and_gain(tmp_path):
    left, right = tones(2, 48_000, [500.0]), tones(2, 48_000, [3000.0])
    path = write_clip(
        tmp_path / "stereo.mov", waveform=np.stack([left, right]), sample_rate=48_000, audio_codec="pcm_s16le"
    )
    only_left = decoded(path, channel_mode="left")[1600:-1600].astype(float)
    assert dominant_hz(only_left) == pytest.approx(500, abs=1)
    assert only_left.std() * np.sqrt(2) / 32768 == pytest.approx(0.5, rel=0.01)
    mixed = decoded(path)[1600:-1600].astype(float) / 32768
    spectrum = np.abs(np.fft.rfft(mixed)) * 2 / len(mixed)
    for hz in (500, 3000):
        assert spectrum[round(hz * len(mixed) / SAMPLE_RATE)] == pytest.approx(0.25, rel=0.02)
    np.testing.assert_allclose(decoded(path, gain=0.5), decoded(path) / 2, atol=1)
    assert decoded(path, channel_mode="left", gain=10).max() == 32767  # clipped at full scale, not wrapped


def test_six_channels_are_averaged(tmp_path):
    tone = tones(1, 48_000, [700.0])
    channels = np.zeros((6, 48_000), np.float32)
    channels[2] = tone
    path = write_clip(tmp_path / "surround.mov", waveform=channels, sample_rate=48_000, audio_codec="pcm_s16le")
    assert decoded(path)[800:-800].std() * np.sqrt(2) / 32768 == pytest.approx(0.5 / 6, rel=0.02)


def test_nearest_moviepy_takes_the_nearest_samples_of_44_khz(tmp_path):
    noise = np.random.default_rng(1).integers(-20000, 20000, (2, 44_100)).astype(np.int16)
    path = write_clip(
        tmp_path / "noise.mov", waveform=noise / np.float32(32767), sample_rate=44_100, audio_codec="pcm_s16le"
    )
    got = decoded(path, channel_mode="left", resample="nearest_moviepy")
    index = np.round(44_100 * ((1.0 / 16_000) * np.arange(16_000))).astype(int)
    np.testing.assert_array_equal(got, noise[0, index])


def test_sound_that_starts_late_gets_leading_zeros(tmp_path):
    path = write_clip(
        tmp_path / "late.mov",
        seconds=3,
        waveform=tones(2, 16_000, [1000.0])[None],
        sample_rate=16_000,
        audio_codec="pcm_s16le",
        audio_start_seconds=0.75,
    )
    waveform = decoded(path)
    assert not waveform[:12_000].any()
    assert np.abs(waveform[12_000:12_016]).max() > 1000
    assert len(waveform) == 12_000 + 32_000


def with_times(path, target, move):
    """A copy of a file in which ``move`` changes the timestamps of audio packets."""
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.pts = packet.dts = move(packet.pts)
                packet.stream = stream
                copy.mux(packet)
    return target


def sound_of(path):
    """The sound of a file without pictures."""
    return decode_audio(probe_sound(path, uri=path.name), channel_mode="mean", resample="sinc")


def test_gaps_are_silence_up_to_a_limit_on_their_sum(tmp_path):
    whole = write_clip(tmp_path / "whole.wav", seconds=4, sample_rate=16_000, video_codec=None, audio_codec="pcm_s16le")
    near = with_times(whole, tmp_path / "near.mkv", lambda pts: pts + 20 * 16_000 * (pts > 32_000))
    assert len(sound_of(near)) == pytest.approx(24 * 16_000, abs=2048)
    far = with_times(whole, tmp_path / "far.mkv", lambda pts: pts + 20 * pts)  # 21 s per second, in small steps
    with pytest.raises(ClipDecodeError, match="audio timestamps jump"):
        sound_of(far)


def test_sound_that_overlaps_itself_is_a_jump(tmp_path):
    whole = write_clip(tmp_path / "whole.wav", seconds=4, sample_rate=16_000, video_codec=None, audio_codec="pcm_s16le")
    back = with_times(whole, tmp_path / "back.mkv", lambda pts: pts // 4)
    with pytest.raises(ClipDecodeError, match="audio timestamps jump"):
        sound_of(back)


def test_fit_length_cuts_pads_and_counts():
    waveform = np.arange(1, 101, dtype=np.int16)
    cut, padded = fit_length(waveform, 80 / SAMPLE_RATE)
    assert (len(cut), padded) == (80, 0)
    longer, padded = fit_length(waveform, 130 / SAMPLE_RATE)
    assert (len(longer), padded) == (130, 30)
    np.testing.assert_array_equal(longer[:100], waveform)
    assert not longer[100:].any()


@pytest.mark.parametrize("name", ["bitflips", "truncated_faststart_half"])
def test_damage_is_an_error_not_a_shorter_waveform(name):
    info = probe(shared_dir() / "media" / "derived" / f"{name}.mp4")
    with pytest.raises(ClipDecodeError, match=r"damaged audio|truncated audio") as error:
        decode_audio(info, channel_mode="mean", resample="sinc")
    assert error.value.stage == "audio"


def test_packets_read_before_give_the_same_sound(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", seconds=2, audio_start_seconds=0.4)
    with open_media(path) as media:
        _, packets = media.packets()
        shared = decode_audio(media.info, channel_mode="mean", resample="sinc", packets=packets)
    np.testing.assert_array_equal(shared, decoded(path))
