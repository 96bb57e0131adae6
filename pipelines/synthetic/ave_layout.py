"""Writes a synthetic AVE in the official layout: real mp4 files (H.264 + AAC) with visible shapes and audible timbres.

    <output>/Annotations.txt                 header, then  Category&VideoID&Quality&StartTime&EndTime
    <output>/{train,val,test}Set.txt         rows of the split, no header
    <output>/AVE/<11 characters>.mp4         10 s, 64 x 64 at 5 fps, mono AAC at 16 kHz; some ids begin with "-"

In ``pipelines/synthetic``, ``scenes.py`` says what happens in a clip and why the tasks are hard, ``render.py`` how it
looks and sounds, and ``ceilings.py`` what an observer of one or both modalities can reach. A clip depends only on
(seed, task, split, index): its arrays are the same on every machine and with any number of processes. The bytes of the
mp4 files are not reproducible (x264).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipelines.synthetic.ave_clips import annotation_row, write_clip
from pipelines.synthetic.configs import SyntheticConfig
from pipelines.synthetic.writing import SyntheticResult, in_processes, refuse_another_set

SPLIT_FILES = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
HEADER = "Category&VideoID&Quality&StartTime&EndTime"


def write_synthetic_ave(
    config: SyntheticConfig, output: str | Path, *, on_clip: Callable[[int, int], None] | None = None
) -> SyntheticResult:
    """Write the whole set, but keep clips that exist. The lists come last, so a folder with lists is complete.

    Args:
        config: Task, sizes and seed.
        output: Folder to create or to complete.
        on_clip: Called with (clips written, all clips), for a progress bar.

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
    refuse_another_set(root, lists)
    folder = root / "AVE"
    folder.mkdir(parents=True, exist_ok=True)
    clips = [(config, split, index, folder) for split, size in config.split_sizes.items() for index in range(size)]
    num_bytes = 0
    for count, size in enumerate(in_processes(write_clip, clips, config.num_workers), start=1):
        num_bytes += size
        if on_clip:
            on_clip(count, len(clips))
    for name, text in lists.items():
        (root / name).write_text(text)
    return SyntheticResult(root=root, split_sizes=config.split_sizes, num_bytes=num_bytes)
