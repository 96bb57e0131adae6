"""The sound of a clip as 16 kHz mono int16, on the clip's own timeline.

    file clock   origin ............ audio start ............ audio end ....... clip end
    waveform     [ zeros: start offset ][ decoded samples    ][ zeros: padding ]

* All channels are decoded and then mixed by a stated rule: the ``mean`` of all channels, or the ``left`` one. The
  default downmixes of common libraries differ by up to a factor of 3.4 and depend on the sample format.
* The result is multiplied by a gain factor (1 by default) and clipped; levels are never normalised.
* ``sinc`` resamples with FFmpeg's windowed-sinc filter. ``nearest_moviepy`` converts to 44.1 kHz stereo and takes the
  nearest samples. This aliases, but the published fbank statistics were measured on it.
* Zeros fill the time before the stream begins and the gaps between packets, so the sound stays in step with the frames.
  Damage and timestamps that jump are errors; they never shorten the waveform.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import NamedTuple

import av
import av.error
import numpy as np

from pipelines.config import ChannelMode, Resample
from pipelines.media.probing import MediaInfo, open_container, stream_at
from stgcma.data.fbank import SAMPLE_RATE
from stgcma.errors import ClipDecodeError

_CHUNK_SAMPLES = 1 << 16
_GAP_SECONDS = 0.05
"""A timestamp that is later than expected by more than this marks a gap; less is rounding of the container's clock."""
_LONGEST_SILENCE_SECONDS = 60.0
"""Largest sum of all gaps in a stream; more means that a timestamp jumps."""
_LARGEST_OVERLAP_SECONDS = 0.5
"""A timestamp that is earlier than expected by more than this is an error: later sound would be heard too late."""
_TRUNCATION_SECONDS = 0.1
_MOVIEPY_RATE = 44_100


class Chunk(NamedTuple):
    """A stretch of sound: ``samples [channels, n]`` float32 in [-1, 1], rate in Hz, FFmpeg's channel layout."""

    samples: np.ndarray
    rate: int
    layout: str


def decode_audio(
    info: MediaInfo,
    *,
    channel_mode: ChannelMode,
    resample: Resample,
    gain: float = 1.0,
    packets: Iterable[av.Packet[av.AudioStream]] | None = None,
) -> np.ndarray:
    """Decode the whole audio stream.

    Args:
        info: Probe of the file.
        channel_mode: How channels become one.
        resample: How the rate becomes 16 kHz.
        gain: Factor after the downmix.
        packets: All packets of the stream, if the caller has read the file; the file must still be open.

    Returns:
        ``[num_samples]`` int16 at 16 kHz; sample 0 is at the clip's origin.

    Raises:
        ClipDecodeError: Stage ``audio``: no samples, damage, truncation, or timestamps that jump.
    """
    try:
        with ExitStack() as stack:
            if packets is None:
                container = stack.enter_context(open_container(info.path))
                packets = container.demux(stream_at(info.audio_index, container.streams.audio))
            waveform = _resampled(_native_chunks(packets, info.origin_seconds), channel_mode, resample, gain)
    except av.error.FFmpegError as error:
        raise ClipDecodeError("audio", "damaged audio", f"{info.path}: {error}") from error
    _check_complete(info, len(waveform))
    return waveform


def fit_length(waveform: np.ndarray, duration_seconds: float) -> tuple[np.ndarray, int]:
    """Cut or zero-pad the end of a waveform.

    Args:
        waveform: ``[num_samples]`` int16 at 16 kHz.
        duration_seconds: Length of the result.

    Returns:
        The waveform ``[num_samples]``, and the number of zeros appended.
    """
    needed = round(duration_seconds * SAMPLE_RATE)
    missing = max(0, needed - len(waveform))
    return np.pad(waveform[:needed], (0, missing)), missing


def _native_chunks(packets: Iterable[av.Packet[av.AudioStream]], origin: float) -> Iterator[Chunk]:
    """The decoded stream at its own rate, about a second per chunk, with zeros in its gaps."""
    rate = 0
    layout = ""
    pending: list[np.ndarray] = []
    pending_samples = position = silence = 0
    for frame in (frame for packet in packets for frame in packet.decode()):
        if not rate:
            rate = frame.sample_rate
        if frame.sample_rate != rate:
            raise ClipDecodeError("audio", "sample rate changes within the stream", f"{rate} to {frame.sample_rate} Hz")
        samples = _to_float(frame)
        if frame.pts is not None and frame.time_base is not None:
            gap = round(frame.pts * float(frame.time_base * rate) - origin * rate) - position
            if gap > _LONGEST_SILENCE_SECONDS * rate - silence or -gap > _LARGEST_OVERLAP_SECONDS * rate:
                raise ClipDecodeError(
                    "audio", "audio timestamps jump", f"by {gap / rate:.1f} s at {position / rate:.1f} s"
                )
            if gap > (_GAP_SECONDS * rate if position else 0):
                samples = np.pad(samples, ((0, 0), (gap, 0)))
                silence += gap
        if pending and (pending_samples >= _CHUNK_SAMPLES or len(pending[0]) != len(samples)):
            yield Chunk(np.concatenate(pending, axis=1), rate, layout)
            pending, pending_samples = [], 0
        if not pending:
            layout = frame.layout.name
        pending.append(samples)
        pending_samples += samples.shape[1]
        position += samples.shape[1]
    if pending:
        yield Chunk(np.concatenate(pending, axis=1), rate, layout)


def _to_float(frame: av.AudioFrame) -> np.ndarray:
    """``[channels, n]`` float32 in [-1, 1] from any sample format, packed or planar."""
    values = frame.to_ndarray()
    if len(values) == 1:  # packed; or planar with one channel, which this leaves as it is
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.float32:
        return values
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.float32) / float(1 << (8 * values.itemsize - 1))
    return values.astype(np.float32)


def _downmix(channels: np.ndarray, mode: ChannelMode) -> np.ndarray:
    """``[channels, n]`` -> ``[n]``."""
    return channels[0] if mode == "left" or len(channels) == 1 else channels.mean(axis=0)


def _to_int16(samples: np.ndarray, gain: float) -> np.ndarray:
    """Scale, round and clip at full scale."""
    return np.clip(np.rint(samples * (gain * 32768)), -32768, 32767).astype(np.int16)


def _resampled(chunks: Iterator[Chunk], mode: ChannelMode, resample: Resample, gain: float) -> np.ndarray:
    """``[num_samples]`` int16 at 16 kHz."""
    first = next(chunks, None)
    if first is None:
        return np.zeros(0, np.int16)
    chunks = chain([first], chunks)
    if resample == "nearest_moviepy":
        return _nearest(chunks, mode, gain)
    if first.rate == SAMPLE_RATE:
        return np.concatenate([_to_int16(_downmix(chunk.samples, mode), gain) for chunk in chunks])
    mono = (Chunk(_downmix(chunk.samples, mode)[None], chunk.rate, "mono") for chunk in chunks)
    return np.concatenate([_to_int16(part[0], gain) for part in _convert(mono, "fltp", "mono", SAMPLE_RATE)])


def _convert(chunks: Iterable[Chunk], sample_format: str, layout: str, rate: int) -> Iterator[np.ndarray]:
    """Convert chunks with swresample, whose low-pass filter is a windowed sinc; flushes its buffer at the end."""
    resampler = av.AudioResampler(format=sample_format, layout=layout, rate=rate)
    for chunk in chunks:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk.samples), "fltp", chunk.layout)
        frame.sample_rate = chunk.rate
        yield from (out.to_ndarray() for out in resampler.resample(frame))
    yield from (out.to_ndarray() for out in resampler.resample(None))


def _nearest(chunks: Iterable[Chunk], mode: ChannelMode, gain: float) -> np.ndarray:
    """``[num_samples]`` int16: 44.1 kHz stereo from swresample, of which sample ``k`` is ``round(44100 k / 16000)``."""
    stereo = np.concatenate([part.reshape(-1, 2) for part in _convert(chunks, "s16", "stereo", _MOVIEPY_RATE)])
    count = int(len(stereo) * SAMPLE_RATE / _MOVIEPY_RATE)
    times = 1 / SAMPLE_RATE * np.arange(count)  # in moviepy's order of operations, so that halves round the same way
    index = np.rint(_MOVIEPY_RATE * times).astype(np.int64).clip(max=len(stereo) - 1)
    return _to_int16(_downmix(stereo[index].T.astype(np.float32) / 32768, mode), gain)


def _check_complete(info: MediaInfo, num_samples: int) -> None:
    """Refuse a stream that is shorter than its container declares: some damage ends a stream without an error."""
    if num_samples == 0:
        raise ClipDecodeError("audio", "audio stream has no samples", str(info.path))
    end = info.origin_seconds + num_samples / SAMPLE_RATE
    declared_end = info.audio_start_seconds + info.audio_duration_seconds
    if info.has_index and end < declared_end - _TRUNCATION_SECONDS:
        raise ClipDecodeError(
            "audio", "truncated audio", f"{info.path}: decoded {end:.2f} of {declared_end:.2f} declared seconds"
        )
