"""Makes the row of one clip and prints the peak memory of this process in MiB, as a worker would need it.

``python -m benchmarks.one_row CLIP EXTRA_FRAMES``
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from pipelines.clips import ClipRef
from pipelines.config import PreprocessConfig
from pipelines.media.rows import video_row
from pipelines.storage import Storage
from stgcma.data.schema import ClipRow

SEGMENTS = 10


def make_row(path: Path, *, fbanks: tuple[str, ...] = (), extra_frames: int = 0) -> ClipRow:
    """Make a row with JPEG frames, waveform and filter banks.

    Args:
        path: A video file.
        fbanks: Names of filter banks.
        extra_frames: Frames of the second, denser grid; 0: none.
    """
    config = PreprocessConfig(dataset="ave", source=str(path.parent), fbank_specs=fbanks)
    ref = ClipRef(
        dataset="ave",
        clip_id="0",
        split="train",
        video_id="0",
        media_uri=path.name,
        media_bytes=1,
        counts_in_stats=True,
    )
    return video_row(
        ref, Storage(config.source), config, num_segments=SEGMENTS, with_waveform=True, extra_frames=extra_frames
    )


def main() -> None:
    torch.set_num_threads(1)
    make_row(Path(sys.argv[1]), fbanks=("clip", "swin"), extra_frames=int(sys.argv[2]))
    status = Path("/proc/self/status").read_text()  # getrusage would include the memory of the parent at the fork
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


if __name__ == "__main__":
    main()
