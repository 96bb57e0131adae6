"""Writes a synthetic AVE in the official layout: real H.264 + AAC mp4 files in which shapes are seen and timbres heard.

    <output>/Annotations.txt                 header, then  Category&VideoID&Quality&StartTime&EndTime
    <output>/{train,val,test}Set.txt         rows of the split, no header
    <output>/AVE/<11 characters>.mp4         10 s, 64 x 64 at 5 fps, mono AAC at 16 kHz; some ids begin with "-"

In ``pipelines/synthetic``, ``scenes.py`` says what happens in a clip and why the tasks are hard, ``render.py`` how it
looks and sounds, ``ceilings.py`` what an observer of one or both modalities can reach. A clip depends on (seed, task,
split, index) alone: the same arrays on every machine and with any number of processes. The mp4 bytes are not
reproducible (x264).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path

from pipelines.synthetic.ave_clips import SyntheticConfig, annotation_row, write_clip
from stgcma.errors import ConfigError

SPLIT_FILES = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
HEADER = "Category&VideoID&Quality&StartTime&EndTime"


@dataclass(frozen=True)
class SyntheticResult:
    """What was written and where."""

    root: Path
    split_sizes: dict[str, int]
    num_bytes: int


def write_synthetic_ave(
    config: SyntheticConfig, output: str | Path, *, on_clip: Callable[[int, int], None] | None = None
) -> SyntheticResult:
    """Write the whole set; the lists come last, so a folder with lists is complete. Clips that exist are kept.

    Args:
        config: Task, sizes, seed.
        output: Folder to create or to complete; clips of another configuration in it are an error.
        on_clip: Called with (clips written, clips in all), for a progress bar.

    Raises:
        ConfigError: If ``output`` already holds another dataset.
    """
    root = Path(output)
    rows = {
        split: [annotation_row(config, split, index) for index in range(size)]
        for split, size in config.split_sizes.items()
    }
    lists = {SPLIT_FILES[split]: "\n".join(lines) + "\n" for split, lines in rows.items()}
    lists["Annotations.txt"] = "\n".join([HEADER, *(line for lines in rows.values() for line in lines)]) + "\n"
    for name, text in lists.items():
        if (root / name).exists() and (root / name).read_text() != text:
            raise ConfigError(
                f"{root / name} belongs to another dataset: it was made with other sizes, task or seed. "
                "Give the options it was made with, choose another --output folder, or remove this one."
            )
    folder = root / "AVE"
    folder.mkdir(parents=True, exist_ok=True)
    clips = [(config, split, index, folder) for split, size in config.split_sizes.items() for index in range(size)]
    workers = config.num_workers or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers > 1 else nullcontext() as pool:
        sizes = pool.map(write_clip, *zip(*clips, strict=True), chunksize=8) if pool else starmap(write_clip, clips)
        num_bytes = 0
        for count, size in enumerate(sizes, start=1):
            num_bytes += size
            if on_clip:
                on_clip(count, len(clips))
    for name, text in lists.items():
        (root / name).write_text(text)
    return SyntheticResult(root=root, split_sizes=config.split_sizes, num_bytes=num_bytes)
