"""(b) The overhead of Ray Data and Parquet over the same functions in a plain loop.

Four runs over the same clips: a loop that builds rows and discards them; preprocessing in this process, which adds
Parquet files, digests and states; two processes with half of the loop each; preprocessing on Ray with two workers. The
last two are compared with each other, because two processes on two cores slow each other down even without Ray.

CPU time is that of the whole process tree. Starting processes is a fixed cost; it is measured with a shorter run, in
which both workers take part, subtracted and reported separately. A round runs all four, and ratios are taken within a
round. Ray's cost is also split into workers, which cost per clip, and Ray's own processes with the driver, which cost
per second regardless of the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.media import make_clip
from pipelines.clips import group_by_media
from pipelines.config import PreprocessConfig
from pipelines.datasets import dataset_source
from pipelines.preprocess import preprocess
from pipelines.storage import Storage

TARGET = 1.10
NUM_CLIPS, FEW, CLIPS_PER_SHARD, WORKERS = 320, 64, 32, 2
_WORKER = "ray::MapWorker"
LOOP, HERE, LOOPS, RAY = "plain loop", "in process, Parquet", "plain loop, two processes", "Ray, two workers, Parquet"
FBANKS = ("clip", "swin")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class TreeCpu:
    """CPU seconds of a process tree, and those of Ray's workers in it."""

    all: float
    workers: float = 0.0

    def __sub__(self, other: TreeCpu) -> TreeCpu:
        return TreeCpu(self.all - other.all, self.workers - other.workers)

    def __mul__(self, factor: float) -> TreeCpu:
        return TreeCpu(self.all * factor, self.workers * factor)


def tree_cpu_seconds(work: Callable[[], object]) -> TreeCpu:
    """CPU time of this process and its descendants while ``work`` runs, including descendants that end before it.

    The time of the thread that watches them is subtracted.
    """
    used: dict[tuple[int, str], tuple[str, float]] = {}
    first = _tree()
    stop = threading.Event()
    watching = 0.0

    def watch() -> None:
        nonlocal watching
        while not stop.wait(0.2):
            used.update(_tree())
        watching = time.thread_time()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    work()
    used.update(_tree())
    stop.set()
    watcher.join()
    spent = [(name, seconds - first.get(process, ("", 0.0))[1]) for process, (name, seconds) in used.items()]
    return TreeCpu(sum(cpu for _, cpu in spent) - watching, sum(cpu for name, cpu in spent if name.startswith(_WORKER)))


def _tree() -> dict[tuple[int, str], tuple[str, float]]:
    """(pid, start time) -> (name, CPU seconds) of this process and its descendants (Linux)."""
    parents, seconds, starts = {}, {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            before, _, after = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue  # the process has ended
        pid, fields = int(entry.name), after.split()
        parents[pid], starts[pid] = int(fields[1]), fields[19]
        seconds[pid] = before.partition("(")[2], (int(fields[11]) + int(fields[12])) / _TICKS
    tree = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return {(pid, starts[pid]): seconds[pid] for pid in tree if pid in seconds}


def make_source(root: Path) -> Path:
    """Write ``NUM_CLIPS`` copies of one clip in AVE's layout."""
    (root / "AVE").mkdir(parents=True)
    clip = make_clip(root / "clip.mp4")
    names = [f"{number:011d}" for number in range(NUM_CLIPS)]
    for name in names:
        shutil.copy(clip, root / "AVE" / f"{name}.mp4")
    rows = [f"Bark&{name}&good&0&10" for name in names]
    for file, lines in (("Annotations", rows), ("trainSet", rows), ("valSet", []), ("testSet", [])):
        (root / f"{file}.txt").write_text("\n".join(lines))
    return root


def plain_loop(config: PreprocessConfig, part: int = 0, parts: int = 1) -> None:
    """Call only the functions that workers call, for every ``parts``-th clip from number ``part``."""
    torch.set_num_threads(1)
    dataset, source = dataset_source(config.dataset), Storage(config.source)
    clips = dataset.list_clips(source, config).clips[: config.limit]
    for refs in group_by_media(clips)[part::parts]:
        dataset.build_rows(refs, source, config)


def plain_processes(config: PreprocessConfig) -> None:
    """Run the plain loop in two processes."""
    context = multiprocessing.get_context("spawn")
    halves = [context.Process(target=plain_loop, args=(config, part, WORKERS)) for part in range(WORKERS)]
    for half in halves:
        half.start()
    for half in halves:
        half.join()
        if half.exitcode:
            raise RuntimeError(f"a plain loop ended with {half.exitcode}")


def run(rounds: int = 3) -> str:
    """Run interleaved rounds. Returns a table of CPU times per clip and the cost of starting Ray."""
    samples: dict[str, list[float]] = {name: [] for name in (LOOP, HERE, LOOPS, RAY, "own", "start")}
    digests: dict[int | None, set[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder, "source"))
        config = PreprocessConfig(
            dataset="ave", source=str(source), fbank_specs=FBANKS, clips_per_shard=CLIPS_PER_SHARD, num_workers=0
        )

        def make(num_workers: int, limit: int | None = None) -> None:
            output = f"{folder}/made"
            result = preprocess(replace(config, output=output, num_workers=num_workers, limit=limit))
            digests.setdefault(limit, set()).add(result.manifest.digest)
            shutil.rmtree(output)

        def started(work: Callable[[int | None], None]) -> tuple[TreeCpu, float]:
            """CPU time per clip without the start, and CPU seconds of the start."""
            short = tree_cpu_seconds(lambda: work(FEW))
            per_clip = (tree_cpu_seconds(lambda: work(None)) - short) * (1 / (NUM_CLIPS - FEW))
            return per_clip, short.all - per_clip.all * FEW

        plain_loop(replace(config, limit=CLIPS_PER_SHARD))
        for _ in range(rounds):
            samples[LOOP].append(tree_cpu_seconds(lambda: plain_loop(replace(config, limit=FEW))).all / FEW)
            samples[HERE].append(tree_cpu_seconds(lambda: make(0, FEW)).all / FEW)
            samples[LOOPS].append(started(lambda limit: plain_processes(replace(config, limit=limit)))[0].all)
            ray, start = started(lambda limit: make(WORKERS, limit))
            samples[RAY].append(ray.all)
            samples["own"].append(ray.all - ray.workers)
            samples["start"].append(start)
    if any(len(found) != 1 for found in digests.values()):
        raise AssertionError("runs in process and on Ray wrote different rows")
    lines = [f"{FEW} and {NUM_CLIPS} clips, CPU time of the process tree  (medians of {rounds} interleaved rounds)"]
    lines.append(f"  {'':26} {'CPU ms/clip':>11} {'overhead':>9}  target")
    for name, rival in ((LOOP, None), (HERE, LOOP), (LOOPS, None), (RAY, LOOPS)):
        line = f"  {name:26} {median(samples[name]) * 1e3:11.1f}"
        if rival is not None:
            ratio = median(ours / theirs for ours, theirs in zip(samples[name], samples[rival], strict=True))
            line += f" {ratio - 1:9.1%}  <= {TARGET - 1:.0%}  {'reached' if ratio <= TARGET else 'MISSED'}"
        lines.append(line)
    lines.append(f"  of the last, Ray's own processes and the driver: {median(samples['own']) * 1e3:.1f} CPU ms/clip")
    lines.append(f"  starting Ray and two workers: {median(samples['start']):.1f} CPU s, once per run")
    lines.append("  all runs give the same digest")
    return "\n".join(lines)


if __name__ == "__main__":
    print(run())
