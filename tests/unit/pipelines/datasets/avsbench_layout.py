"""A tiny AVSBench in the official layout: 32 x 32 frames whose red channel tells the second, one tone per clip."""

from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = 32
SAMPLE_RATE = 16_000


def frame_pixels(second: int, size: int = SIZE) -> np.ndarray:
    """``[size, size, 3]`` uint8."""
    pixels = np.full((size, size, 3), 90, dtype=np.uint8)
    pixels[..., 0] = 40 * second + 20
    return pixels


def mask_pixels(second: int, size: int = SIZE) -> np.ndarray:
    """``[size, size]`` uint8 of 0 and 255: a square that moves one pixel a second."""
    pixels = np.zeros((size, size), dtype=np.uint8)
    pixels[4 + second : 14 + second, 6:20] = 255
    return pixels


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)


def write_wav(path: Path, seconds: float = 5.0, channels: int = 1, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a 440 Hz tone in every channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    tone = (8000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.repeat(tone[:, None], channels, axis=1).tobytes())


def write_video(path: Path, seconds: int = 5, rate: int = 8, size: tuple[int, int] = (48, 64)) -> None:
    """An mp4 with a 440 Hz tone; red is 0 in the first half of each second and ``20 + 40 * second`` in the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "4", "preset": "veryfast"})
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for index in range(seconds * rate):
            pixels = np.zeros((*size, 3), dtype=np.uint8)
            if index % rate >= rate // 2:
                pixels[:] = frame_pixels(index // rate, 1)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        time = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
        tone = (8000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)
        sound = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts = SAMPLE_RATE, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def write_s4(root: Path, clips: list[tuple[str, int, str, str]]) -> Path:
    """Write the lines ``(name, start, category, split)`` and all their files; return the data folder."""
    lines = ["name,start,category,split", *(f"{n},{s},{c},{split}" for n, s, c, split in clips)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "s4_meta_data.csv").write_text("\n".join(lines) + "\n")
    data = root / "s4_data"
    for name, start, category, split in clips:
        folder = f"{split}/{category}"
        for second in range(5):
            save(data / f"visual_frames/{folder}/{name}/{name}_{second + 1}.png", frame_pixels(second))
            if split != "train" or second == 0:
                save(data / f"gt_masks/{folder}/{name}/{name}_{second + 1}.png", mask_pixels(second))
        write_wav(data / f"audio_wav/{folder}/{name}.wav", min(5, 10 - start))
    return data


def write_ms3(root: Path, clips: list[tuple[str, str]]) -> Path:
    """Write the lines ``(id, split)`` and all their files; return the data folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "ms3_meta_data.csv").write_text("\n".join(["video_id,split", *map(",".join, clips)]) + "\n")
    data = root / "ms3_data"
    for clip_id, split in clips:
        for second in range(5):
            save(data / f"visual_frames/{clip_id}/{clip_id}.mp4_{second + 1}.png", frame_pixels(second))
            save(data / f"gt_masks/{split}/{clip_id}/{clip_id}_{second + 1}.png", mask_pixels(second))
        write_wav(data / f"audio_wav/{split}/{clip_id}.wav")
    return data
