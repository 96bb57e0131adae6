"""(b) What Ray Data and Parquet cost over the same functions in a plain loop.

Three ways over the same clips: a loop that builds rows and throws them away; the run in this process, which adds
Parquet files, digests and states; the run on Ray. CPU time is that of the whole process tree. Ray gets one worker: two
on two cores slow each other down, which is the price of sharing caches and not of Ray. Starting Ray is a fixed
cost that an afternoon of decoding does not notice: it is measured by a run over one shard and reported by itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.media import make_clip
from pipelines.config import PreprocessConfig
from pipelines.datasets import dataset_source
from pipelines.datasets.base import group_by_media
from pipelines.preprocess import preprocess
from pipelines.storage import Storage

TARGET = 1.10
NUM_CLIPS, CLIPS_PER_SHARD = 96, 16
FBANKS = ("clip", "swin")
_TICKS = os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process and of all that it starts while ``work`` runs, those that end before it included."""
    used: dict[tuple[int, str], float] = {}
    first = _tree()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            used.update(_tree())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    work()
    used.update(_tree())
    stop.set()
    watcher.join()
    return sum(seconds - first.get(process, 0.0) for process, seconds in used.items())


def _tree() -> dict[tuple[int, str], float]:
    """(pid, start time) -> user and system seconds, of this process and its descendants (Linux)."""
    parents, seconds, starts = {}, {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid = int(entry.name)
        parents[pid], starts[pid] = int(fields[1]), fields[19]
        seconds[pid] = (int(fields[11]) + int(fields[12])) / _TICKS
    tree = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return {(pid, starts[pid]): seconds[pid] for pid in tree if pid in seconds}


def make_source(root: Path) -> Path:
    """``NUM_CLIPS`` copies of one clip in AVE's layout."""
    (root / "AVE").mkdir(parents=True)
    clip = make_clip(root / "clip.mp4")
    names = [f"{number:011d}" for number in range(NUM_CLIPS)]
    for name in names:
        shutil.copy(clip, root / "AVE" / f"{name}.mp4")
    rows = [f"Bark&{name}&good&0&10" for name in names]
    for file, lines in (("Annotations", rows), ("trainSet", rows), ("valSet", []), ("testSet", [])):
        (root / f"{file}.txt").write_text("\n".join(lines))
    return root


def plain_loop(config: PreprocessConfig) -> None:
    """The functions of the workers, nothing else."""
    dataset, source = dataset_source(config.dataset), Storage(config.source)
    for refs in group_by_media(dataset.list_clips(source, config).clips):
        dataset.build_rows(refs, source, config)


def run(rounds: int = 3) -> str:
    """Interleaved rounds; per clip, and what starting Ray costs once."""
    torch.set_num_threads(1)
    samples: dict[str, list[float]] = {"plain loop": [], "in process, Parquet": [], "Ray, Parquet": [], "start": []}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder, "source"))
        config = PreprocessConfig(
            dataset="ave", source=str(source), fbank_specs=FBANKS, clips_per_shard=CLIPS_PER_SHARD, num_workers=0
        )
        for number in range(rounds):

            def made(num_workers: int, limit: int | None = None, number: int = number) -> None:
                output = f"{folder}/{number}-{num_workers}-{limit}"
                result = preprocess(replace(config, output=output, num_workers=num_workers, limit=limit))
                if limit is None:
                    digests.add(result.manifest.digest)
                shutil.rmtree(output)

            samples["plain loop"].append(tree_cpu_seconds(lambda: plain_loop(config)))
            samples["in process, Parquet"].append(tree_cpu_seconds(lambda: made(0)))
            short = tree_cpu_seconds(lambda: made(1, CLIPS_PER_SHARD))
            whole = tree_cpu_seconds(lambda: made(1))
            per_clip = (whole - short) / (NUM_CLIPS - CLIPS_PER_SHARD)
            samples["Ray, Parquet"].append(per_clip * NUM_CLIPS)
            samples["start"].append(short - per_clip * CLIPS_PER_SHARD)
            time.sleep(1)
    if len(digests) != 1:
        raise AssertionError("runs in process and on Ray wrote different rows")
    plain = median(samples["plain loop"])
    lines = [f"{NUM_CLIPS} clips, CPU time of the process tree  (medians of {rounds} interleaved rounds)"]
    lines.append(f"  {'':20} {'CPU ms/clip':>11} {'overhead':>9}  target")
    for name in ("plain loop", "in process, Parquet", "Ray, Parquet"):
        seconds = median(samples[name])
        judged = "" if name == "plain loop" else ("reached" if seconds / plain <= TARGET else "MISSED")
        target = f"<= {TARGET - 1:.0%}  {judged}" if judged else ""
        lines.append(f"  {name:20} {seconds / NUM_CLIPS * 1e3:11.1f} {seconds / plain - 1:9.1%}  {target}".rstrip())
    lines.append(f"  starting Ray and a worker: {median(samples['start']):.1f} CPU s, once a run")
    lines.append("  digests of both runs equal")
    return "\n".join(lines)


if __name__ == "__main__":
    print(run())
