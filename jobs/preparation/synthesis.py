"""``stgcma-jobs synthesize``: write a synthetic dataset in its official layout; say where it is and what comes next."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.synthetic.ave_clips import SyntheticConfig
from pipelines.synthetic.ave_layout import SyntheticResult, write_synthetic_ave
from pipelines.synthetic.avqa_layout import SyntheticAVQAConfig, write_synthetic_avqa
from pipelines.synthetic.avs_layout import SyntheticAVSConfig, SyntheticAVSResult, write_synthetic_avs
from stgcma.errors import ConfigError

AnyConfig = SyntheticConfig | SyntheticAVSConfig | SyntheticAVQAConfig
AnyResult = SyntheticResult | SyntheticAVSResult

WRITERS: dict[str, Callable[..., AnyResult]] = {
    "ave": write_synthetic_ave,
    "avs-s4": write_synthetic_avs,
    "avs-ms3": write_synthetic_avs,
    "music-avqa": write_synthetic_avqa,
}
"""Whose layout is written -> what writes it."""


def build_config(dataset: str, *, task: str, num_workers: int | None, **sizes: int) -> AnyConfig:
    """The configuration of one synthetic set from the command's options.

    Args:
        dataset: Whose layout is written.
        task: AVE only.
        num_workers: Encoding processes; AVSBench needs none.
        sizes: ``num_train``, ``num_val``, ``num_test`` and ``seed``.

    Raises:
        ConfigError: If there is no synthetic set of that layout, or a value does not fit.
    """
    if dataset not in WRITERS:
        raise ConfigError(f"--dataset needs one of {', '.join(WRITERS)}; got {dataset!r}.")
    if dataset.startswith("avs-"):
        return SyntheticAVSConfig(layout=dataset.removeprefix("avs-"), **sizes)
    if dataset == "music-avqa":
        return SyntheticAVQAConfig(num_workers=num_workers, **sizes)
    choices: dict[str, Any] = {"task": task, "num_workers": num_workers}
    return SyntheticConfig(**choices, **sizes)


def synthesize(config: AnyConfig, output: str, *, dataset: str = "ave") -> AnyResult:
    """Write the set with a bar on stderr where that is a terminal.

    Raises:
        ConfigError: If ``output`` holds another set.
    """
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


def run(config: AnyConfig, output: str, *, dataset: str, as_json: bool) -> None:
    """Write the set and print what lies there now."""
    result = synthesize(config, output, dataset=dataset)
    task = {"task": config.task} if isinstance(config, SyntheticConfig) else {}
    if as_json:
        values = {"root": str(result.root), "clips": result.split_sizes, "size_bytes": result.num_bytes}
        print(json.dumps(values | task | {"seed": config.seed}, indent=2))
        return
    clips = ", ".join(f"{count} {split}" for split, count in result.split_sizes.items())
    chosen = ", ".join(f"{name} {value}" for name, value in (task | {"seed": config.seed}).items())
    print(f"Synthetic {dataset}, {chosen}: {clips}; {result.num_bytes / 1e6:,.1f} MB")
    print(f"  clips    {result.root}")
    print(f"  next     stgcma-jobs preprocess --dataset {dataset} --source {result.root} --output SHARDS --fbank demo")
