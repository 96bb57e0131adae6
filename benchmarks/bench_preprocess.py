"""(a) Preprocessing of one clip, against the usual libraries and against the usual ffmpeg commands.

* Ten frames and 16 kHz mono sound, against decord + AudioReader + torchvision in one thread.
* The same as JPEG and int16, ready to store, against ffmpeg writing 3 jpg files per second and a wav file.
* Peak memory of a new process for a 60-second 720p clip.

Paths of clips as arguments measure these clips instead of generated ones.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import decord
import imageio_ffmpeg
import numpy as np
import simplejpeg
import torch
from torchvision.transforms.v2 import functional as vision

from benchmarks.common import Comparison, Variant, compare
from benchmarks.media import make_clip
from benchmarks.one_row import SEGMENTS, make_row
from pipelines.config import PreprocessConfig
from pipelines.media.rows import decode_clip
from stgcma.data.fbank import SAMPLE_RATE
from stgcma.data.schema import ClipRow

SHORT_SIDE = 256
MEMORY_LIMIT_MIB = 1024

Decoded = tuple[np.ndarray, np.ndarray]
"""Frames ``[10, H, W, 3]`` uint8 and sound ``[num_samples]`` int16."""


def ours(path: Path) -> Decoded:
    """Decode as ``pipelines.media.rows`` does, without encoding."""
    clip = decode_clip(path, PreprocessConfig(dataset="ave", source=""), num_segments=SEGMENTS)
    return clip.frames.images[clip.frames.grids[0]], clip.waveform


def decord_and_torchvision(path: Path) -> Decoded:
    """Decode with decord's two readers, and resize with torchvision in the memory layout that is fast for it."""
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    frames = reader.get_batch(np.linspace(0, len(reader) - 1, SEGMENTS).astype(int)).asnumpy()
    small = vision.resize(torch.from_numpy(frames).permute(0, 3, 1, 2), [SHORT_SIDE], antialias=True)
    sound = decord.AudioReader(str(path), ctx=decord.cpu(0), sample_rate=SAMPLE_RATE, mono=True)[:].asnumpy()[0]
    return small.permute(0, 2, 3, 1).numpy(), np.clip(sound * 32768, -32768, 32767).astype(np.int16)


def equal_decodes(mine: Decoded, theirs: Decoded) -> str:
    if not np.array_equal(mine[0], theirs[0]):
        raise AssertionError("frames differ from decord's sequential decode")
    return f"frames array_equal; {equal_sound(mine[1], theirs[1])}"


def equal_sound(mine: np.ndarray, theirs: np.ndarray) -> str:
    """Check that lengths agree within 0.1 s, and signals up to gain and a delay of 2 ms.

    Raises:
        AssertionError: If they do not.
    """
    length = min(len(mine), len(theirs)) - 100
    if abs(len(mine) - len(theirs)) > SAMPLE_RATE // 10:
        raise AssertionError(f"sound of {len(mine)} and of {len(theirs)} samples")
    a = mine[:length].astype(float)
    scores = [np.corrcoef(a, theirs[lag : lag + length].astype(float))[0, 1] for lag in range(33)]
    if max(scores) < 0.97:  # a delay of a fraction of a sample changes the highest frequencies
        raise AssertionError(f"sound correlates to {max(scores):.3f} only")
    return f"sound correlates to {max(scores):.4f} at a delay of {int(np.argmax(scores))} samples"


def ffmpeg_recipe(path: Path) -> tuple[list[bytes], np.ndarray]:
    """Run ffmpeg once for pictures and once for sound, as the published data scripts do, in one thread."""
    with tempfile.TemporaryDirectory() as folder:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-i", str(path)]
        subprocess.run([*command, "-vf", "fps=3", "-q:v", "2", f"{folder}/%04d.jpg"], check=True)
        subprocess.run([*command, "-vn", "-ac", "1", "-ar", str(SAMPLE_RATE), f"{folder}/sound.wav"], check=True)
        jpgs = [file.read_bytes() for file in sorted(Path(folder).glob("*.jpg"))]
        wav = Path(folder, "sound.wav").read_bytes()
    start = wav.index(b"data") + 8
    return jpgs, np.frombuffer(wav[start : start + (len(wav) - start) // 2 * 2], "<i2")


def equal_recipe(row: ClipRow, theirs: tuple[list[bytes], np.ndarray]) -> str:
    """Check that ten of the rival's pictures, chosen as the reference does, show what our frames show within 1/6 s.

    Raises:
        AssertionError: If they do not, or as ``equal_sound``.
    """
    jpgs, sound = theirs
    chosen = [jpgs[index - 1] for index in np.linspace(1, len(jpgs), SEGMENTS).astype(int)]
    size = (row.frame_height, row.frame_width)
    differences = []
    for mine, other in zip(row.frames, chosen, strict=True):
        image = torch.from_numpy(simplejpeg.decode_jpeg(other)).permute(2, 0, 1)
        small = vision.resize(image, list(size), antialias=True).permute(1, 2, 0).numpy()
        differences.append(np.abs(simplejpeg.decode_jpeg(mine).astype(int) - small).mean())
    if np.median(differences) > 40:
        raise AssertionError(f"pictures differ by {np.median(differences):.0f} grey levels")
    return f"{len(jpgs)} jpgs against {len(row.frames)}; {equal_sound(row.waveform, sound)}"


def peak_mib(path: Path, extra_frames: int) -> float:
    """Peak resident memory in MiB of a new process that makes one row with filter banks."""
    command = [sys.executable, "-m", "benchmarks.one_row", str(path), str(extra_frames)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def run(rounds: int = 7, paths: Sequence[Path] = ()) -> list[Comparison]:
    """Make both comparisons for each clip.

    Args:
        rounds: Rounds after the warm-up.
        paths: Clips; by default one with B-frames and one without. In a clip without B-frames no frame can be skipped,
            so it has no target against ffmpeg.
    """
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        clips = {path.name: path for path in paths} or {
            "10 s 360p H.264, B-frames": make_clip(Path(folder, "b.mp4")),
            "10 s 360p H.264, no B-frames": make_clip(Path(folder, "p.mp4"), b_frames=0),
        }
        for name, path in clips.items():

            def on(function: Callable, path: Path = path) -> Callable:
                return lambda: function(path)

            results.append(
                compare(
                    title=f"frames and sound of a clip: {name}",
                    variants=[
                        Variant("stgcma", on(ours)),
                        Variant("decord + AudioReader + torchvision", on(decord_and_torchvision)),
                    ],
                    rounds=rounds,
                    check=equal_decodes,
                    target=1.0,
                )
            )
            results.append(
                compare(
                    title=f"stored pictures and sound of a clip: {name}",
                    variants=[
                        Variant("stgcma, 10 JPEG q95 + int16", on(make_row)),
                        Variant("ffmpeg, 3 jpg per second + wav", on(ffmpeg_recipe)),
                    ],
                    rounds=rounds,
                    check=equal_recipe,
                    target=None if "no B-frames" in name else 1.8,
                )
            )
    return results


def memory_report() -> str:
    """Peak memory for a long clip, with the limit."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_clip(Path(folder, "long.mp4"), seconds=60, width=1280, height=720, preset="ultrafast")
        peaks = {f"10 + {extra} frames" if extra else "10 frames": peak_mib(path, extra) for extra in (0, 60)}
    lines = [
        f"  {name:14} {peak:6.0f} MiB  {'within' if peak < MEMORY_LIMIT_MIB else 'OVER'} the limit of "
        f"{MEMORY_LIMIT_MIB} MiB"
        for name, peak in peaks.items()
    ]
    return "\n".join(["peak memory of a process for a 60 s 720p clip, including filter banks", *lines])


if __name__ == "__main__":
    for comparison in run(paths=[Path(argument).resolve() for argument in sys.argv[1:]]):
        print(comparison.table())
    print(memory_report())
