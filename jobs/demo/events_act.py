"""The demo's first act: synthetic clips -> shards -> 6 models x 3 seeds -> one table, in minutes on two cores.

Every step is the one a user runs on real clips, and every step continues where an interrupted demo stopped:

    <output>/<task>/clips     the synthetic AVE, official layout (stgcma-jobs synthesize)
    <output>/<task>/shards    Parquet shards (stgcma-jobs preprocess)
    <output>/<task>/runs      run folders of jobs/ablations/demo.yaml (stgcma-jobs sweep)
    <output>/<task>/pictures  accuracy.png, clips.png
    <output>/<task>/result.json   the table
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from jobs import SHIPPED
from jobs.demo.events_pictures import PictureClip, accuracy_picture, clips_picture
from jobs.demo.events_table import LINEAR, NONLINEAR, REFERENCE, DemoTable, as_json, collect_table, format_table
from jobs.preparation.preprocessing import ClipReporter
from jobs.preparation.synthesis import synthesize
from jobs.runs.evaluation import read_per_clip
from jobs.runs.folder import RunFolder
from jobs.runs.tracking import default_tracking_uri
from jobs.sweeps.sweep import run_sweep
from jobs.tables.ablation import Ablation, load_ablation
from jobs.tables.trials import find_runs
from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
from pipelines.synthetic.ave_clips import SyntheticConfig, make_clip, make_video_id
from stgcma.errors import RunFailedError

ABLATION = SHIPPED / "ablations" / "demo.yaml"
MAX_CONCURRENCY = 6
"""Trials at a time; each holds about 0.7 GB."""
NUM_PICTURE_CLIPS = 4


@dataclass(frozen=True, kw_only=True)
class DemoPaths:
    """Where the parts of one task's demo lie."""

    output: str
    task: str

    @property
    def root(self) -> Path:
        return Path(self.output) / self.task

    @property
    def clips(self) -> str:
        return str(self.root / "clips")

    @property
    def shards(self) -> str:
        return str(self.root / "shards")

    @property
    def runs(self) -> str:
        return str(self.root / "runs")

    @property
    def pictures(self) -> Path:
        return self.root / "pictures"

    @property
    def tracking(self) -> str:
        """One MLflow store for the demos of all tasks."""
        return default_tracking_uri(self.output)


@dataclass(kw_only=True)
class Stopwatch:
    """Says what begins, and keeps the seconds each step took."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        self.console.print(text, markup=False, soft_wrap=True)
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def run_demo(
    output: str = "demo",
    task: str = "t4",
    *,
    clips: int = 400,
    seeds: tuple[int, ...] | None = None,
    concurrency: int | None = None,
    num_workers: int | None = None,
    overrides: tuple[str, ...] = (),
) -> DemoTable:
    """Run the demo of one task and print its table.

    Args:
        output: Folder for everything the demo writes.
        task: ``t1``, ``t3`` or ``t4``.
        clips: Training clips; a fifth as many for validation, three eighths for the test.
        seeds: Training seeds; None: those of the ablation file.
        concurrency: Trials at a time; None: one per CPU, at most ``MAX_CONCURRENCY``.
        num_workers: Ray workers that preprocess; None: one per CPU; 0: this process, without Ray.
        overrides: ``--set`` texts for every row.

    Raises:
        RunFailedError: If a trial failed, after all others have finished.
    """
    paths = DemoPaths(output=output, task=task)
    config = SyntheticConfig(task=task, num_train=clips, num_val=max(1, clips // 5), num_test=max(1, 3 * clips // 8))
    watch = Stopwatch(console=Console(stderr=True, highlight=False))
    total = sum(config.split_sizes.values())
    with watch.step("synthesize", f"1/3  {total} synthetic clips, task {task} -> {paths.clips}"):
        synthesize(config, paths.clips)
    with watch.step("preprocess", f"2/3  shards -> {paths.shards}"):
        source = PreprocessConfig(
            dataset="ave", source=paths.clips, output=paths.shards, fbank_specs=("demo",), num_workers=num_workers
        )
        shards = preprocess(source, reporter=ClipReporter(watch.console)).uri
    ablation = demo_ablation(paths, seeds, overrides)
    workers = concurrency or min(MAX_CONCURRENCY, len(os.sched_getaffinity(0)))
    text = f"3/3  {len(ablation.rows)} models x {len(ablation.seeds)} seeds, {workers} at a time -> {paths.runs}"
    with watch.step("train", text):
        sweep = run_sweep(ablation, output=paths.runs, concurrency=workers, device="cpu", tracking=paths.tracking)
    failed = [status for status in sweep.statuses if status.state != "done"]
    if failed:
        reasons = "\n".join(f"  {status.row} seed {status.seed}: {status.message or status.state}" for status in failed)
        raise RunFailedError(f"{len(failed)} of {len(sweep.statuses)} runs did not finish:\n{reasons}")
    table = collect_table(ablation, paths.runs, config)
    write_pictures(table, ablation, paths, config)
    (paths.root / "result.json").write_text(json.dumps(as_json(table), indent=2) + "\n")
    minutes = " + ".join(f"{name} {seconds:.0f}" for name, seconds in watch.seconds.items())
    print(format_table(table))
    print(f"\n  shards     {shards}")
    print(f"  runs       {paths.runs}")
    print(f"  MLflow     {paths.tracking}   (stgcma-jobs ui --output {output})")
    print(f"  pictures   {paths.pictures}/accuracy.png, {paths.pictures}/clips.png")
    print(f"  seconds    {minutes} = {sum(watch.seconds.values()):.0f}")
    return table


def demo_ablation(paths: DemoPaths, seeds: tuple[int, ...] | None, overrides: tuple[str, ...]) -> Ablation:
    """The demo's comparison on one task's shards."""
    ablation = load_ablation(ABLATION, [f"data.shards={json.dumps(paths.shards)}", *overrides])
    named = replace(ablation, name=f"demo-{paths.task}", title=f"{ablation.title}, task {paths.task}")
    return replace(named, seeds=seeds) if seeds else named


def write_pictures(table: DemoTable, ablation: Ablation, paths: DemoPaths, config: SyntheticConfig) -> None:
    """``accuracy.png`` and ``clips.png``: the first test clips with the answers of the rows that the table is about."""
    paths.pictures.mkdir(parents=True, exist_ok=True)
    (paths.pictures / "accuracy.png").write_bytes(accuracy_picture(table))
    folders = find_runs(paths.runs)
    answers: dict[str, dict[str, list[int]]] = {}
    for name in (REFERENCE, LINEAR, NONLINEAR):
        trial = next(trial for trial in ablation.trials if trial.row == name)
        clip_ids, values = read_per_clip(RunFolder(f"{paths.runs}/{folders[trial.fingerprint]}"), "test")
        by_video = (clip_id.rpartition(":")[0] for clip_id in clip_ids)
        answers[table.row(name).title] = dict(zip(by_video, values["predicted"].tolist(), strict=True))
    chosen = []
    for index in range(min(NUM_PICTURE_CLIPS, config.num_test)):
        video_id = make_video_id(config, "test", index)
        clip = make_clip(config, "test", index)
        chosen.append(
            PictureClip(
                video_id=video_id,
                frames=clip.frames[2 :: len(clip.frames) // table.num_segments],
                scenes=clip.plan.scenes,
                labels=clip.plan.labels,
                predictions={title: by_video[video_id] for title, by_video in answers.items()},
            )
        )
    (paths.pictures / "clips.png").write_bytes(clips_picture(chosen))
