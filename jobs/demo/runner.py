"""Runs the demo: makes synthetic clips and shards, trains models with several seeds, prints a table, draws pictures.

Each step is also a command for real clips, and continues where an interrupted demo stopped:

    <output>/<act>/clips        synthetic clips in an official layout (stgcma-jobs synthesize)
    <output>/<act>/shards       Parquet shards (stgcma-jobs preprocess)
    <output>/<act>/runs         run folders and reports of the act's ablation (stgcma-jobs sweep)
    <output>/<act>/pictures     pictures of the act
    <output>/<act>/result.json  the table
    <output>/mlflow.db          the runs of all acts
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
from jobs.demo.act import Act
from jobs.demo.table import format_table
from jobs.preparation.preprocessing import ClipReporter
from jobs.preparation.synthesis import synthesize
from jobs.runs.tracking import default_tracking_uri
from jobs.sweeps.sweep import run_sweep
from jobs.tables.ablation import Ablation, load_ablation
from jobs.tables.report import Report, as_json
from jobs.tables.report_formats import gaps
from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
from stgcma.errors import RunFailedError

MAX_CONCURRENCY = 6
"""Most trials to run at the same time; each needs about 0.7 GB of memory."""


@dataclass(kw_only=True)
class Stopwatch:
    """Announces steps on stderr and measures their time in seconds."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        self.console.print(text, markup=False, soft_wrap=True)
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started


def run_act(
    act: Act,
    output: str = "demo",
    *,
    seeds: tuple[int, ...] | None = None,
    concurrency: int | None = None,
    num_workers: int | None = None,
    overrides: tuple[str, ...] = (),
) -> Report:
    """Run one act, write its pictures and ``result.json``, and print its table.

    Args:
        act: What to run.
        output: Folder for everything that the demo writes.
        seeds: Training seeds; None: those of the ablation file.
        concurrency: Trials to run at the same time; None: one per CPU, at most ``MAX_CONCURRENCY``.
        num_workers: Ray workers for preprocessing; None: one per CPU; 0: this process, without Ray.
        overrides: ``--set`` texts for every row.

    Raises:
        RunFailedError: If a trial failed; all others have finished by then.
    """
    root = Path(output) / act.name
    clips, shards, runs = (str(root / name) for name in ("clips", "shards", "runs"))
    tracking = default_tracking_uri(output)
    ablation = load_comparison(act, shards, seeds, overrides)
    watch = Stopwatch(console=Console(stderr=True, highlight=False))
    with watch.step("synthesize", f"1/3  {sum(act.synthetic.split_sizes.values())} synthetic clips -> {clips}"):
        synthesize(act.synthetic, clips)
    with watch.step("preprocess", f"2/3  shards -> {shards}"):
        config = PreprocessConfig(
            dataset=act.dataset, source=clips, output=shards, fbank_specs=(act.fbank,), num_workers=num_workers
        )
        written = preprocess(config, reporter=ClipReporter(watch.console)).uri
    workers = concurrency or min(MAX_CONCURRENCY, len(os.sched_getaffinity(0)))
    text = f"3/3  {len(ablation.trials)} runs of {len(ablation.rows)} models, {workers} at a time -> {runs}"
    with watch.step("train", text):
        report = run_sweep(
            ablation, output=runs, concurrency=workers, device="cpu", tracking=tracking, retry_failed=True
        ).report
    require_complete(report)
    baselines = act.baselines()
    files = act.pictures(report, runs)
    for name, data in files.items():
        (root / "pictures").mkdir(exist_ok=True)
        (root / "pictures" / name).write_bytes(data)
    shown = {name: 100 * value for name, value in baselines.items()}
    result = {"report": as_json(report), "baselines": shown, "closing": act.closing(report)}
    (root / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(format_table(act, report, baselines))
    print(f"\n  shards     {written}")
    print(f"  runs       {runs}")
    print(f"  MLflow     {tracking}   (stgcma-jobs ui --output {output})")
    print(f"  pictures   {', '.join(str(root / 'pictures' / name) for name in files)}")
    steps = " + ".join(f"{name} {seconds:.0f}" for name, seconds in watch.seconds.items())
    print(f"  seconds    {steps} = {sum(watch.seconds.values()):.0f}")
    return report


def load_comparison(act: Act, shards: str, seeds: tuple[int, ...] | None, overrides: tuple[str, ...]) -> Ablation:
    """The ablation of an act, renamed after the act.

    Args:
        act: The act.
        shards: Root of its shards.
        seeds: Training seeds; None: those of the file.
        overrides: ``--set`` texts for every row.

    Raises:
        ConfigError: If the overrides are invalid.
    """
    ablation = load_ablation(SHIPPED / "ablations" / act.ablation, overrides, shards=shards)
    title = f"{ablation.title} ({act.name})"
    return replace(ablation, name=f"demo-{act.name}", title=title, seeds=seeds or ablation.seeds)


def require_complete(report: Report) -> None:
    """Raise if a trial is missing.

    Raises:
        RunFailedError: With the missing trials and the reasons.
    """
    if missing := gaps(report):
        raise RunFailedError(
            "The table needs all trials, but some did not finish. Run the same command to run them again.\n"
            + "\n".join(f"  {line}" for line in missing)
        )
