"""One AVSBench clip -> one row: frame files or a raw video, a wav, and the masks of some frames.

Frames keep the size of their masks (224 x 224 in the official release); ``PreprocessConfig.short_side`` does not apply.
From a raw video, the frame at 15/16 of each second is taken and scaled to the size of the masks. Like the official
frames, it does not keep the aspect ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.clips import ClipRef
from pipelines.config import PreprocessConfig
from pipelines.media.audio import decode_audio
from pipelines.media.avs_files import ClipFiles
from pipelines.media.decode import decode_pictures, frame_indices, timeline_of
from pipelines.media.images import encode_frame
from pipelines.media.masks import Mask, read_mask, read_picture
from pipelines.media.probing import MediaInfo, open_media, probe, probe_sound
from pipelines.media.rows import all_fbanks
from pipelines.media.timeline import Timeline
from pipelines.storage import Storage
from stgcma.data.fbank import SAMPLE_RATE
from stgcma.data.png import encode_bits
from stgcma.data.schema import ClipRow, ClipSource
from stgcma.errors import ClipDecodeError

FRAME_POSITION = 15 / 16
"""Fraction of each second at which its frame is taken."""
LENGTH_TOLERANCE_SECONDS = 0.5
"""A wav or video whose length differs from its clip's by more than this belongs to another clip."""
_COUNT_TOLERANCE_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """``images [S, H, W, 3]`` uint8, their times on the clip's clock, and facts about their source."""

    images: np.ndarray
    times_seconds: tuple[float, ...]
    source: ClipSource


def build_row(ref: ClipRef, files: ClipFiles, data: Storage, config: PreprocessConfig) -> ClipRow:
    """Read, check and encode one clip.

    Args:
        ref: The clip; its annotation is a ``MaskAnnotation``.
        files: Its paths in ``data``.
        data: The dataset's data folder.
        config: Encodings and audio rules.

    Raises:
        ClipDecodeError: With the stage and reason of the first problem.
    """
    masks = read_masks(files, data)
    size = masks[0].pixels.shape
    if ref.media_uri.endswith(files.video):
        pictures = _video_pictures(files, data, len(files.frames), size, ref.annotation.expected_seconds)
    else:
        pictures = _frame_pictures(files, data, ref.annotation.expected_seconds)
    found = pictures.images.shape[1:3]
    if found != size:
        raise ClipDecodeError(
            "masks",
            "mask size differs from its frame",
            f"{files.masks[0]}: the mask is {_size(size)}, its frame is {_size(found)}",
        )
    waveform, sound = read_sound(files, data, config)
    _check_length(len(waveform) / SAMPLE_RATE, ref.annotation.expected_seconds, files.sound)
    fbanks, fbank_frames = all_fbanks(waveform, config, len(files.frames))
    return ClipRow(
        clip_id=ref.clip_id,
        dataset=ref.dataset,
        split=ref.split,
        video_id=ref.video_id,
        source=replace(
            pictures.source,
            uri=ref.media_uri,
            size_bytes=ref.media_bytes or 0,
            audio_codec=sound.audio_codec,
            sample_rate=sound.sample_rate,
            num_channels=sound.num_channels,
            audio_duration_seconds=sound.audio_duration_seconds,
            audio_decoder="pyav",
            non_binary_mask_pixels=sum(mask.num_non_binary for mask in masks),
        ),
        duration_seconds=len(waveform) / SAMPLE_RATE,
        frames=[encode_frame(image, config.frame_encoding, config.jpeg_quality) for image in pictures.images],
        frame_height=size[0],
        frame_width=size[1],
        frame_times_seconds=pictures.times_seconds,
        fbanks=fbanks,
        fbank_frames=fbank_frames,
        category=ref.annotation.category,
        masks=[encode_bits(mask.pixels) for mask in masks],
        mask_frames=ref.annotation.mask_frames,
    )


def _read(data: Storage, path: str) -> bytes | None:
    try:
        return data.read_bytes(path)
    except FileNotFoundError:
        return None


def _size(shape: Sequence[int]) -> str:
    """``shape`` (height, width, ...) as width x height."""
    return f"{shape[1]}x{shape[0]}"


def read_masks(files: ClipFiles, data: Storage) -> list[Mask]:
    """All masks of a clip; they have one size.

    Raises:
        ClipDecodeError: Stage ``masks``: a file is missing or unreadable, sizes differ, or the category is unknown.
    """
    masks = []
    for path in files.masks:
        content = _read(data, path)
        if content is None:
            raise _missing_mask(files, data, path)
        masks.append(read_mask(content, path))
        if masks[-1].pixels.shape != masks[0].pixels.shape:
            raise ClipDecodeError(
                "masks",
                "masks of different sizes",
                f"{path}: {_size(masks[-1].pixels.shape)}, the first mask is {_size(masks[0].pixels.shape)}",
            )
    return masks


def _missing_mask(files: ClipFiles, data: Storage, path: str) -> ClipDecodeError:
    """The error for a missing mask; it names the category if the category has no folder."""
    if files.category_folder:
        folder = PurePosixPath(files.category_folder)
        categories = data.list_folders(str(folder.parent))
        if folder.name not in categories:
            known = ", ".join(categories) or "none"
            return ClipDecodeError("masks", "unknown category", f"{folder} does not exist; known categories: {known}")
    return ClipDecodeError("masks", "mask missing", path)


def _frame_pictures(files: ClipFiles, data: Storage, expected_seconds: int) -> Pictures:
    """Read the frame files; the last frame stands in for missing frames past the end of a short clip."""
    images: list[np.ndarray] = []
    for second, path in enumerate(files.frames):
        content = _read(data, path)
        if content is not None:
            images.append(read_picture(content, path))
        elif images and second >= expected_seconds:
            images.append(images[-1])
        else:
            raise ClipDecodeError("frames", "frame missing", path)
        if images[-1].shape != images[0].shape:
            raise ClipDecodeError(
                "frames",
                "frames of different sizes",
                f"{path}: {_size(images[-1].shape)}, the first frame is {_size(images[0].shape)}",
            )
    height, width = images[0].shape[:2]
    source = ClipSource(
        uri="",
        size_bytes=0,
        video_codec=PurePosixPath(files.frames[0]).suffix[1:],
        width=width,
        height=height,
        num_video_frames=len(images),
        frame_decoder="png",
    )
    times = tuple(min(second, expected_seconds - 1) + FRAME_POSITION for second in range(len(images)))
    return Pictures(images=np.stack(images), times_seconds=times, source=source)


def _video_pictures(
    files: ClipFiles, data: Storage, num_frames: int, size: tuple[int, int], expected_seconds: int
) -> Pictures:
    """One frame of each second of a raw video, scaled to ``size`` (height, width); past the end, the last frame."""
    try:
        with data.local_copy(files.video) as path, open_media(path, uri=files.video) as media:
            info = media.info
            packets, _ = media.packets() or (None, None)
            found = decode_pictures(
                media,
                timeline_of(media, packets),
                lambda table: np.unique(frame_of_each_second(info, table, num_frames)),
                short_side=max(info.width, info.height),
                packets=None,
            )
    except FileNotFoundError as error:
        raise ClipDecodeError("probe", "media file missing", files.video) from error
    starts = found.timeline.starts - found.timeline.starts[0]
    _check_length(found.timeline.end_seconds - info.origin_seconds, expected_seconds, files.video)
    chosen = frame_of_each_second(info, found.timeline, num_frames)
    images = torch.from_numpy(found.images[np.searchsorted(np.unique(chosen), chosen)]).permute(0, 3, 1, 2)
    if tuple(images.shape[2:]) != size:
        images = F.interpolate(images.contiguous(), size=size, mode="bilinear", align_corners=False)
    source = ClipSource(
        uri="",
        size_bytes=0,
        video_codec=info.video_codec,
        width=info.width,
        height=info.height,
        frame_rate=info.frame_rate,
        num_video_frames=int(chosen[-1]) + 1,
        video_duration_seconds=info.video_duration_seconds,
        rotation_degrees=found.rotation_degrees,
        frame_decoder=found.decoder,
    )
    return Pictures(
        images=images.permute(0, 2, 3, 1).contiguous().numpy(),
        times_seconds=tuple(starts[chosen].tolist()),
        source=source,
    )


def frame_of_each_second(info: MediaInfo, timeline: Timeline, num_frames: int) -> np.ndarray:
    """The frame at 15/16 of each second, as the official frames were chosen; past the end, the last frame.

    The official choice counts frames at a rate rounded to a whole number. If the container's timestamps contradict that
    count, as with a variable rate, the frame on screen at that time is taken.

    Returns:
        ``[num_frames]`` int64 positions in ``timeline``.
    """
    rate = max(1, round(info.frame_rate))
    starts = timeline.starts - timeline.starts[0]
    times = np.arange(num_frames) + FRAME_POSITION
    by_count = np.minimum((times * rate).astype(np.int64), len(starts) - 1)
    by_time = frame_indices(starts, num_frames, times[0], times[-1])
    return by_count if np.abs(starts[by_count] - starts[by_time]).max() <= _COUNT_TOLERANCE_SECONDS else by_time


def read_sound(files: ClipFiles, data: Storage, config: PreprocessConfig) -> tuple[np.ndarray, MediaInfo]:
    """Decode the clip's wav, or the sound of its video if there is no wav.

    Returns:
        ``[num_samples]`` int16 at 16 kHz, and the probe of the file.

    Raises:
        ClipDecodeError: Stage ``audio``: neither file exists, or the sound cannot be decoded.
    """
    for path, describe in ((files.sound, probe_sound), (files.video, probe)):
        try:
            with data.local_copy(path) as local:
                info = describe(local, uri=path)
                waveform = decode_audio(
                    info, channel_mode=config.channel_mode, resample=config.resample, gain=config.gain
                )
        except FileNotFoundError:
            continue
        return waveform, info
    raise ClipDecodeError("audio", "wav missing", files.sound)


def _check_length(seconds: float, expected_seconds: int, path: str) -> None:
    if abs(seconds - expected_seconds) > LENGTH_TOLERANCE_SECONDS:
        kind = PurePosixPath(path).suffix[1:]
        raise ClipDecodeError(
            "audio" if kind == "wav" else "frames",
            f"{kind} length differs",
            f"{path}: {seconds:.2f} s, the clip has {expected_seconds} s",
        )
