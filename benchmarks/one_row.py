"""Makes one row of one clip in a process of its own and prints the peak memory in MiB: what a worker needs.

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
    """A row with JPEG frames, waveform and the filter banks asked for."""
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
    status = Path("/proc/self/status").read_text()  # unlike getrusage, without what the parent held when it forked
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


if __name__ == "__main__":
    main()
