"""``stgcma-jobs synthesize``: write a synthetic dataset in its official layout; say where it is and what comes next."""

from __future__ import annotations

import json

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.datasets.synthetic import SyntheticResult, write_synthetic_ave
from pipelines.synthetic.clips import SyntheticConfig
from stgcma.errors import ConfigError

WRITERS = {"ave": write_synthetic_ave}
"""Whose layout is written -> what writes it."""


def synthesize(config: SyntheticConfig, output: str, *, dataset: str = "ave") -> SyntheticResult:
    """Write the set with a bar on stderr where that is a terminal.

    Raises:
        ConfigError: If there is no synthetic set of that layout, or ``output`` holds another one.
    """
    if dataset not in WRITERS:
        raise ConfigError(f"--dataset needs one of {', '.join(WRITERS)}; got {dataset!r}.")
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("synthesize"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:.0f}/{task.total:.0f} clips"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(config.split_sizes.values()))
        return WRITERS[dataset](config, output, on_clip=lambda done, _: bar.update(task, completed=done))


def run(config: SyntheticConfig, output: str, *, dataset: str, as_json: bool) -> None:
    """Write the set and print what lies there now."""
    result = synthesize(config, output, dataset=dataset)
    if as_json:
        values = {"root": str(result.root), "clips": result.split_sizes, "size_bytes": result.num_bytes}
        print(json.dumps(values | {"task": config.task, "seed": config.seed}, indent=2))
        return
    clips = ", ".join(f"{count} {split}" for split, count in result.split_sizes.items())
    print(f"Synthetic {dataset}, task {config.task}, seed {config.seed}: {clips}; {result.num_bytes / 1e6:,.1f} MB")
    print(f"  clips    {result.root}")
    print(f"  next     stgcma-jobs preprocess --dataset {dataset} --source {result.root} --output SHARDS --fbank demo")
