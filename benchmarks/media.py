"""Makes clips like those of the data sets: H.264 with textured moving pictures, stereo AAC with two tones."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F

FRAME_RATE = 25
SAMPLE_RATE = 44_100


def make_clip(
    path: Path,
    *,
    seconds: int = 10,
    width: int = 640,
    height: int = 360,
    b_frames: int = 3,
    keyframe_interval: int = 250,
    preset: str = "medium",
) -> Path:
    """Write one clip with the usual settings of x264 (crf 23).

    Args:
        path: The file to write.
        seconds: Length of the clip.
        width: Width in pixels.
        height: Height in pixels.
        b_frames: Most B-frames in a row; with 0, every frame is a reference.
        keyframe_interval: Most frames from one key frame to the next.
        preset: Preset of x264.
    """
    rng = np.random.default_rng(0)
    texture = _texture(rng, 2 * height, 2 * width)
    grain = rng.normal(0, 3, (8, height, width, 1))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FRAME_RATE)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.options = {"preset": preset, "crf": "23", "bf": str(b_frames), "g": str(keyframe_interval)}
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
        for index in range(seconds * FRAME_RATE):
            top = int((0.5 + 0.5 * np.sin(index / 40)) * height)
            left = int((0.5 + 0.5 * np.cos(index / 55)) * width)
            picture = texture[top : top + height, left : left + width] + grain[index % len(grain)]
            side = height // 5
            y, x = (3 * index) % (height - side), (5 * index) % (width - side)
            picture[y : y + side, x : x + side] = texture[:side, :side][::-1]
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        time = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
        tones = np.stack([np.sin(2 * np.pi * hz * time) for hz in (440.0, 880.0)])
        sound = (0.3 * tones + rng.normal(0, 0.02, tones.shape)).astype(np.float32)
        for start in range(0, sound.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start : start + 1024]), "fltp", "stereo")
            frame.sample_rate, frame.pts = SAMPLE_RATE, start
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture ``[height, width, 3]`` float with detail at several scales, like natural pictures."""
    total = torch.full((1, 3, height, width), 128.0)
    for cells, strength in ((6, 60.0), (24, 30.0), (96, 12.0)):
        coarse = torch.from_numpy(rng.uniform(-1, 1, (1, 3, cells, cells * 2))).float()
        total += strength * F.interpolate(coarse, size=(height, width), mode="bicubic")
    return total[0].permute(1, 2, 0).numpy()
