"""One media file -> one row: probe, frames, sound, filter banks, encoding. All datasets of video files use it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipelines.config import PreprocessConfig
from pipelines.media.audio import decode_audio, fit_length
from pipelines.media.decode import Frames, decode_frames, timeline_of
from pipelines.media.images import encode_frame
from pipelines.media.probing import MediaInfo, open_media
from pipelines.media.span import NominalLength, Span, clip_span
from pipelines.media.timeline import Timeline
from pipelines.storage import Storage
from stgcma.data.fbank import FBANK_SPECS, SAMPLE_RATE, segment_fbanks
from stgcma.data.schema import ClipRow, ClipSource
from stgcma.errors import ClipDecodeError

if TYPE_CHECKING:
    from pipelines.clips import ClipRef

_TRUNCATION_SECONDS = 0.5


def video_row(
    ref: ClipRef,
    source: Storage,
    config: PreprocessConfig,
    *,
    num_segments: int,
    with_waveform: bool,
    nominal: NominalLength | None = None,
    extra_frames: int = 0,
) -> ClipRow:
    """Decode one video file into a row without annotation.

    Frames and segments divide the same span (``pipelines.media.span``), and the waveform is cut or zero-padded to it.

    Args:
        ref: The file to read, and the names that the row carries.
        source: Storage that holds the file.
        config: Sizes, encodings and audio rules; ``fbank_specs`` is filled in.
        num_segments: ``S``, the number of frames and of audio segments.
        with_waveform: Whether the row keeps the waveform beside its filter banks.
        nominal: Length of the dataset's clips; None: any length.
        extra_frames: Number of frames in a second, denser grid; 0: no such grid.

    Raises:
        ClipDecodeError: With the stage and reason of the first problem in the file.
    """
    try:
        with source.local_copy(ref.media_uri) as path:
            clip = decode_clip(
                path,
                config,
                num_segments=num_segments,
                extra_frames=extra_frames,
                uri=ref.media_uri,
                nominal=nominal,
            )
    except FileNotFoundError as error:
        raise ClipDecodeError("probe", "media file missing", ref.media_uri) from error
    info, frames = clip.info, clip.frames
    duration_seconds = frames.span.end - frames.span.begin
    waveform, padded = fit_length(clip.waveform, duration_seconds)
    fbanks, fbank_frames = all_fbanks(waveform, config, num_segments)
    encoded = [encode_frame(image, config.frame_encoding, config.jpeg_quality) for image in frames.images]
    grid = frames.grids[0]
    return ClipRow(
        clip_id=ref.clip_id,
        dataset=ref.dataset,
        split=ref.split,
        video_id=ref.video_id,
        source=_clip_source(ref, info, frames, padded),
        duration_seconds=duration_seconds,
        frames=[encoded[i] for i in grid],
        frame_height=frames.images.shape[1],
        frame_width=frames.images.shape[2],
        frame_times_seconds=(frames.times_seconds[grid] - info.origin_seconds).tolist(),
        waveform=waveform if with_waveform else None,
        fbanks=fbanks,
        fbank_frames=fbank_frames,
        extra_frames=[encoded[i] for i in frames.grids[1]] if extra_frames else None,
    )


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """Result of decoding: the probe, the frames of the grids, and the whole sound ``[num_samples]`` at 16 kHz."""

    info: MediaInfo
    frames: Frames
    waveform: np.ndarray


def decode_clip(
    path: Path,
    config: PreprocessConfig,
    *,
    num_segments: int,
    extra_frames: int = 0,
    uri: str = "",
    nominal: NominalLength | None = None,
) -> DecodedClip:
    """Probe a file and decode both streams.

    Args:
        path: A local file.
        config: As in ``video_row``, like the arguments after it.
        num_segments: Frames in the first grid.
        extra_frames: Frames in the second grid; 0: no second grid.
        uri: Name of the file in messages; empty: the path.
        nominal: Length of the dataset's clips; None: any length.

    Raises:
        ClipDecodeError: With the stage and reason of the first problem in the file.
    """
    counts = (num_segments, extra_frames) if extra_frames else (num_segments,)
    with open_media(path, uri=uri) as media:
        video_packets, audio_packets = media.packets() or (None, None)
        timeline = timeline_of(media, video_packets)
        picture_start = float(timeline.starts[0])
        info = replace(
            media.info,
            video_start_seconds=picture_start,
            origin_seconds=min(picture_start, media.info.audio_start_seconds),
        )
        waveform = decode_audio(
            info,
            channel_mode=config.channel_mode,
            resample=config.resample,
            gain=config.gain,
            packets=audio_packets,
        )
        sound_end = info.origin_seconds + len(waveform) / SAMPLE_RATE

        def span_of(table: Timeline) -> Span:
            _check_end(info, max(table.end_seconds, sound_end))
            return clip_span(info, table, sound_end, nominal)

        frames = decode_frames(
            media, counts, short_side=config.short_side, packets=video_packets, span_of=span_of, timeline=timeline
        )
    return DecodedClip(info=info, frames=frames, waveform=waveform)


def all_fbanks(
    waveform: np.ndarray, config: PreprocessConfig, num_segments: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Compute every filter bank of the configuration.

    Args:
        waveform: ``[num_samples]`` int16 at 16 kHz.
        config: Names the filter banks and their number type.
        num_segments: ``S``.

    Returns:
        Name -> ``[S, T, F]`` as stored, and name -> number of valid time frames.

    Raises:
        ClipDecodeError: Stage ``fbank``: the sound is shorter than one analysis window.
    """
    fbanks: dict[str, np.ndarray] = {}
    valid: dict[str, int] = {}
    for name in config.fbank_specs:
        fbank, valid[name] = segment_fbanks(torch.from_numpy(waveform), FBANK_SPECS[name], num_segments)
        fbanks[name] = fbank.numpy().astype(config.fbank_dtype, copy=False)
    return fbanks, valid


def _check_end(info: MediaInfo, end: float) -> None:
    """Refuse a file that ends before its header says: files without an index can be cut off without an error."""
    if info.declared_end_seconds is not None and end < info.declared_end_seconds - _TRUNCATION_SECONDS:
        raise ClipDecodeError(
            "frames", "truncated video", f"{info.path}: decoded {end:.2f} of {info.declared_end_seconds:.2f} s"
        )


def _clip_source(ref: ClipRef, info: MediaInfo, frames: Frames, padded: int) -> ClipSource:
    """Facts from the probe, with times on the clip's own clock and the path relative to the source root."""
    return ClipSource(
        uri=ref.media_uri,
        size_bytes=info.size_bytes,
        video_codec=info.video_codec,
        width=info.width,
        height=info.height,
        frame_rate=info.frame_rate,
        num_video_frames=frames.num_video_frames,
        video_start_seconds=info.video_start_seconds - info.origin_seconds,
        video_duration_seconds=info.video_duration_seconds,
        rotation_degrees=frames.rotation_degrees,
        audio_codec=info.audio_codec,
        sample_rate=info.sample_rate,
        num_channels=info.num_channels,
        audio_start_seconds=info.audio_start_seconds - info.origin_seconds,
        audio_duration_seconds=info.audio_duration_seconds,
        frame_decoder=frames.decoder,
        audio_decoder="pyav",
        padded_audio_samples=padded,
        length_note=frames.span.note,
    )
