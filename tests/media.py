"""Small media files with known content: one colour and one tone per second."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

COLOURS = ((220, 40, 40), (40, 200, 60), (50, 60, 220), (220, 210, 60), (200, 60, 200), (60, 200, 210))
"""RGB of second 0, 1, 2, ..., repeated. The colours stay distinct under lossy codecs."""
TONES_HZ = (400.0, 900.0, 1700.0, 2600.0, 3600.0, 5200.0)
"""Frequency of second 0, 1, 2, ..., repeated."""


def colour_frames(seconds: float, frame_rate: int, width: int, height: int) -> list[np.ndarray]:
    """Frames ``[H, W, 3]`` uint8, each in the colour of its second."""
    count = round(seconds * frame_rate)
    return [
        np.full((height, width, 3), COLOURS[index // frame_rate % len(COLOURS)], np.uint8) for index in range(count)
    ]


def tones(seconds: float, sample_rate: int, frequencies: Sequence[float] = TONES_HZ) -> np.ndarray:
    """``[num_samples]`` float32 of amplitude 0.5: the tone of every second."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    frequency = np.asarray(frequencies)[time.astype(int) % len(frequencies)]
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write_clip(
    path: Path,
    *,
    seconds: float = 3.0,
    frame_rate: int = 10,
    width: int = 64,
    height: int = 48,
    frames: Sequence[np.ndarray] | None = None,
    frame_times: Sequence[float] | None = None,
    video_codec: str | None = "libx264",
    video_options: dict[str, str] | None = None,
    waveform: np.ndarray | None = None,
    sample_rate: int = 44_100,
    audio_codec: str | None = "aac",
    audio_start_seconds: float = 0.0,
) -> Path:
    """Write a clip with a colour and a tone per second, or with the given content.

    Args:
        path: The suffix determines the container.
        seconds: Length of the generated content.
        frame_rate: Frames per second of the generated content.
        width: Pixels.
        height: Pixels.
        frames: ``[H, W, 3]`` uint8 each, instead of colours.
        frame_times: Presentation times in seconds, for a variable frame rate.
        video_codec: None: no video stream.
        video_options: Options of the encoder, e.g. ``{"bf": "0"}``.
        waveform: ``[channels, num_samples]`` float, instead of mono tones.
        sample_rate: Sample rate of the waveform in Hz.
        audio_codec: None: no audio stream.
        audio_start_seconds: Timestamp of the first sample.
    """
    frames = colour_frames(seconds, frame_rate, width, height) if frames is None else frames
    waveform = tones(seconds, sample_rate)[None] if waveform is None else np.atleast_2d(waveform)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = audio = None
        if video_codec:
            video = container.add_stream(video_codec, rate=frame_rate)
            video.width, video.height = frames[0].shape[1], frames[0].shape[0]
            video.pix_fmt = "yuv420p"
            video.options = video_options or {}
            video.codec_context.time_base = Fraction(1, 1000 if frame_times else frame_rate)
        if audio_codec:
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(waveform)]
            audio = container.add_stream(audio_codec, rate=sample_rate, layout=layout)
        if video:
            _encode_video(container, video, frames, frame_times)
        if audio:
            _encode_audio(container, audio, waveform, sample_rate, audio_start_seconds)
    return path


def _encode_video(
    container: OutputContainer,
    stream: VideoStream,
    frames: Sequence[np.ndarray],
    frame_times: Sequence[float] | None,
) -> None:
    for index, array in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
        frame.pts = index if frame_times is None else round(frame_times[index] * 1000)
        frame.time_base = stream.codec_context.time_base
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _encode_audio(
    container: OutputContainer, stream: AudioStream, waveform: np.ndarray, sample_rate: int, start_seconds: float
) -> None:
    block = 1024
    for start in range(0, waveform.shape[1], block):
        samples = waveform[:, start : start + block]
        if stream.codec_context.format.name == "s16":
            samples = np.rint(samples * 32767).astype(np.int16).T.reshape(1, -1)
            layout_format = "s16"
        else:
            layout_format = "fltp"
            samples = samples.astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), layout_format, stream.layout.name)
        frame.sample_rate = sample_rate
        frame.time_base = Fraction(1, sample_rate)
        frame.pts = start + round(start_seconds * sample_rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_ave(
    root: Path,
    clips: Sequence[tuple[str, str]] = (("-aaaaaaaaaa", "train"), ("bbbbbbbbbbb", "val"), ("ccccccccccc", "test")),
    *,
    seconds: float = 10.0,
    categories: Sequence[str] = ("Bark", "Church bell", "Cat"),
    **clip_options: Any,
) -> Path:
    """Write a tiny AVE in the official layout.

    Args:
        root: Folder of the dataset.
        clips: (video id, split); an id may occur again with another category.
        seconds: Length of every clip.
        categories: Categories of the clips, repeated.
        clip_options: Passed to ``write_clip``.
    """
    rows: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    lines = []
    (root / "AVE").mkdir(parents=True, exist_ok=True)
    for number, (video_id, split) in enumerate(clips):
        path = root / "AVE" / f"{video_id}.mp4"
        if not path.exists():
            write_clip(path, seconds=seconds, **clip_options)
        line = f"{categories[number % len(categories)]}&{video_id}&good&{number % 4}&{4 + number % 7}"
        lines.append(line)
        rows[split].append(line)
    (root / "Annotations.txt").write_text("\n".join(lines))
    for split, split_rows in rows.items():
        (root / f"{split}Set.txt").write_text("\n".join(split_rows))
    return root
