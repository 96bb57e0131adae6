"""The mp4 files of synthetic clips."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipelines.synthetic.render import FRAME_RATE, FRAME_SIZE, SAMPLE_RATE


def write_mp4(path: Path, frames: np.ndarray, waveform: np.ndarray) -> None:
    """Encode H.264 (veryfast, crf 18) and AAC; the file appears when it is complete.

    Encoding uses a single thread, because many processes do it at the same time.

    Args:
        path: The file to write.
        frames: ``[n, 64, 64, 3]`` uint8, 5 per second.
        waveform: ``[num_samples]`` int16 at 16 kHz.
    """
    partial = path.with_suffix(".mp4.partial")
    with av.open(str(partial.absolute()), "w", format="mp4") as container:
        video = container.add_stream(
            "libx264", rate=FRAME_RATE, options={"preset": "veryfast", "crf": "18", "threads": "1"}
        )
        video.width = video.height = FRAME_SIZE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options={"aac_coder": "fast"})
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(waveform[None], format="s16", layout="mono")
        sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    partial.replace(path)
