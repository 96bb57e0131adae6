"""The demo's second act: synthetic AVSBench -> shards -> 2 models x 2 seeds -> mIoU table and a picture of masks.

<output>/masks/clips      the synthetic AVSBench-MS3, official layout (stgcma-jobs synthesize --dataset avs-ms3)
<output>/masks/shards     Parquet shards
<output>/masks/runs       run folders of jobs/ablations/demo_masks.yaml
<output>/masks/pictures   masks_best.png, masks_worst.png
<output>/masks/result.json    the table
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace

import numpy as np
from rich.console import Console

from jobs import SHIPPED
from jobs.demo.events_act import MAX_CONCURRENCY, DemoPaths, Stopwatch
from jobs.demo.events_table import format_difference
from jobs.preparation.preprocessing import ClipReporter
from jobs.preparation.synthesis import synthesize
from jobs.runs.evaluation import evaluate_run, read_per_clip
from jobs.runs.folder import FACTS, RunFolder
from jobs.sweeps.sweep import run_sweep
from jobs.tables.ablation import Ablation, load_ablation
from jobs.tables.intervals import Interval, bootstrap_difference, bootstrap_over_clips
from jobs.tables.trials import find_runs
from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
from pipelines.synthetic.avs_layout import SyntheticAVSConfig, blind_scores

DATASET = "avs-ms3"
ABLATION = SHIPPED / "ablations" / "demo_masks.yaml"
REFERENCE, FROZEN = "stg-cma", "frozen"
"""Rows that the picture and the closing lines compare."""


@dataclass(frozen=True, kw_only=True)
class MaskRow:
    """One line of the table; all numbers on test, fractions."""

    name: str
    title: str
    trainable: int
    miou: Interval
    """Over seeds and clips."""
    fscore: float
    """Mean over seeds and clips with sound."""
    per_seed: tuple[float, ...]
    """mIoU."""
    difference: Interval | None
    """mIoU minus the reference row's, paired by clip and seed; None for the reference itself."""


@dataclass(frozen=True, kw_only=True)
class MaskTable:
    """What the second act prints."""

    num_clips: int
    seeds: tuple[int, ...]
    rows: tuple[MaskRow, ...]
    blind: dict[str, float]
    """mIoU that needs no listening, by strategy."""

    def row(self, name: str) -> MaskRow:
        return next(row for row in self.rows if row.name == name)


def run_demo_masks(
    output: str = "demo",
    *,
    clips: int = 400,
    seeds: tuple[int, ...] | None = None,
    concurrency: int | None = None,
    num_workers: int | None = None,
    overrides: tuple[str, ...] = (),
) -> MaskTable:
    """Run the second act and print its table.

    Args:
        output: Folder for everything the demo writes.
        clips: Training clips; an eighth as many for validation, three eighths for the test.
        seeds: Training seeds; None: those of the ablation file.
        concurrency: Trials at a time; None: one per CPU, at most ``MAX_CONCURRENCY``.
        num_workers: Ray workers that preprocess; None: one per CPU; 0: this process, without Ray.
        overrides: ``--set`` texts for every row.

    Raises:
        RunFailedError: If a trial failed, after all others have finished.
    """
    paths = DemoPaths(output=output, task="masks")
    config = SyntheticAVSConfig(
        layout="ms3", num_train=clips, num_val=max(1, clips // 8), num_test=max(1, 3 * clips // 8)
    )
    watch = Stopwatch(console=Console(stderr=True, highlight=False))
    with watch.step(
        "synthesize", f"1/3  {sum(config.split_sizes.values())} synthetic clips with masks -> {paths.clips}"
    ):
        synthesize(config, paths.clips, dataset=DATASET)
    with watch.step("preprocess", f"2/3  shards -> {paths.shards}"):
        source = PreprocessConfig(
            dataset=DATASET, source=paths.clips, output=paths.shards, fbank_specs=("demo",), num_workers=num_workers
        )
        shards = preprocess(source, reporter=ClipReporter(watch.console)).uri
    ablation = load_ablation(ABLATION, [f"data.shards={json.dumps(paths.shards)}", *overrides])
    ablation = replace(ablation, seeds=seeds) if seeds else ablation
    workers = concurrency or min(MAX_CONCURRENCY, len(os.sched_getaffinity(0)))
    text = f"3/3  {len(ablation.rows)} models x {len(ablation.seeds)} seeds, {workers} at a time -> {paths.runs}"
    with watch.step("train", text):
        run_sweep(
            ablation, output=paths.runs, concurrency=workers, device="cpu", tracking=paths.tracking
        ).raise_if_failed()
    table = collect_masks(ablation, paths.runs, blind_scores(config, "test"))
    write_mask_pictures(ablation, paths)
    (paths.root / "result.json").write_text(json.dumps(asdict(table), indent=2) + "\n")
    minutes = " + ".join(f"{name} {seconds:.0f}" for name, seconds in watch.seconds.items())
    print(format_masks(table))
    print(f"\n  shards     {shards}")
    print(f"  runs       {paths.runs}")
    print(f"  MLflow     {paths.tracking}   (stgcma-jobs ui --output {output})")
    print(f"  pictures   {paths.pictures}/masks_best.png, {paths.pictures}/masks_worst.png")
    print(f"  seconds    {minutes} = {sum(watch.seconds.values()):.0f}")
    return table


def collect_masks(ablation: Ablation, runs: str, blind: dict[str, float]) -> MaskTable:
    """Read the finished trials from their run folders."""
    folders = find_runs(runs)
    ious: dict[str, np.ndarray] = {}
    fscores: dict[str, float] = {}
    trainable: dict[str, int] = {}
    for row in ablation.rows:
        by_seed, by_seed_fscore = [], []
        for trial in (trial for trial in ablation.trials if trial.row == row.name):
            folder = RunFolder(f"{runs}/{folders[trial.fingerprint]}")
            _, values = read_per_clip(folder, "test")
            by_seed.append(values["iou"].numpy())
            by_seed_fscore.append(np.nanmean(values["fscore"].numpy()))
            trainable[row.name] = folder.read_json(FACTS)["parameters"]["trainable"]
        ious[row.name], fscores[row.name] = np.stack(by_seed), float(np.mean(by_seed_fscore))
    reference = ious[ablation.compare_with]
    rows = tuple(
        MaskRow(
            name=row.name,
            title=row.title,
            trainable=trainable[row.name],
            miou=bootstrap_over_clips(ious[row.name]),
            fscore=fscores[row.name],
            per_seed=tuple(ious[row.name].mean(axis=(1, 2)).tolist()),
            difference=None if row.name == ablation.compare_with else bootstrap_difference(ious[row.name], reference),
        )
        for row in ablation.rows
    )
    return MaskTable(num_clips=reference.shape[1], seeds=ablation.seeds, rows=rows, blind=blind)


def write_mask_pictures(ablation: Ablation, paths: DemoPaths) -> None:
    """The best and worst test clips of the reference row's first seed, above the frozen backbone's masks of them."""
    folders = find_runs(paths.runs)
    adapted, frozen = (
        f"{paths.runs}/{folders[next(t for t in ablation.trials if t.row == name).fingerprint]}"
        for name in (REFERENCE, FROZEN)
    )
    result = evaluate_run(adapted, baseline=frozen, device="cpu")
    paths.pictures.mkdir(parents=True, exist_ok=True)
    for file in result.files:
        if file.endswith(".png"):
            shutil.copy(f"{adapted}/{file}", paths.pictures)


def format_masks(table: MaskTable) -> str:
    """The table and its reading, percentages."""
    width = max(len(title) for title in (*(row.title for row in table.rows), *map(_blind_title, table.blind)))
    lines = [
        "Synthetic AVSBench-MS3: a small and a big object are seen; one of them, both or neither sound, small ones",
        "high and big ones low, and what sounds is to be masked. Sizes, places and sources change every second.",
        f"mIoU and F-score on {table.num_clips} test clips of 5 frames, mean of {len(table.seeds)} seeds; "
        "checkpoints selected on val;",
        "95 % bootstrap intervals over clips and seeds.",
        "",
        f"{'':{width}}  {'trainable':>9}  {'mIoU %':>6}  {'interval':>13}  {'F %':>5}  "
        f"against {table.row(REFERENCE).title}, paired",
    ]
    for row in table.rows:
        low, high = 100 * row.miou.low, 100 * row.miou.high
        difference = "" if row.difference is None else f"  {format_difference(row.difference)}"
        lines.append(
            f"{row.title:{width}}  {row.trainable:9,}  {100 * row.miou.mean:6.1f}  {low:5.1f} - {high:5.1f}  "
            f"{100 * row.fscore:5.1f}{difference}"
        )
    for name, value in table.blind.items():
        lines.append(f"{_blind_title(name):{width}}  {0:9,}  {100 * value:6.1f}")
    return "\n".join([*lines, "", *_reading(table)])


def _blind_title(strategy: str) -> str:
    return f"without listening: {strategy}"


def _reading(table: MaskTable) -> list[str]:
    """What these numbers show and what they do not."""
    difference = table.row(FROZEN).difference
    assert difference is not None
    gain = format_difference(Interval(-difference.mean, -difference.high, -difference.low))
    verdict = "makes no clear difference"
    if difference.excludes_zero:
        verdict = "helps" if difference.mean < 0 else "hurts"
    return [
        f"Shows: adapting the frozen backbone {verdict}, {gain}, against the same decoder on the plain",
        "backbone. That decoder hears too, but its attention (TPAVI) sums the sound of all seconds of a clip.",
        "Does not show: anything about larger backbones, or real clips, whose sources seldom change every second.",
    ]
