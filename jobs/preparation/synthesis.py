"""Writes a synthetic dataset in an official layout and prints where it is and how to preprocess it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.options import options_of
from pipelines.synthetic.configs import SyntheticAVQAConfig, SyntheticAVSConfig, SyntheticConfig
from pipelines.synthetic.writing import SyntheticResult
from stgcma.errors import ConfigError

AnyConfig = SyntheticConfig | SyntheticAVSConfig | SyntheticAVQAConfig


@dataclass(frozen=True, kw_only=True)
class SyntheticSet:
    """One synthetic set: its configuration and what its name fixes of it."""

    config: type[AnyConfig]
    """A record with ``num_train``, ``num_val``, ``num_test`` and ``seed``; ``option`` makes its other options."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that the name of the set determines."""

    def build(self, **values: Any) -> AnyConfig:
        """The configuration with these values.

        Raises:
            ConfigError: If a value is out of range.
        """
        return self.config(**self.fixed, **values)


SYNTHETIC_SETS: dict[str, SyntheticSet] = {
    "ave": SyntheticSet(config=SyntheticConfig),
    "avs-s4": SyntheticSet(config=SyntheticAVSConfig, fixed={"layout": "s4"}),
    "avs-ms3": SyntheticSet(config=SyntheticAVSConfig, fixed={"layout": "ms3"}),
    "music-avqa": SyntheticSet(config=SyntheticAVQAConfig),
}
"""Name of the dataset whose layout is written -> the set."""


def synthetic_set(dataset: str) -> SyntheticSet:
    """The synthetic set in the layout of a dataset.

    Raises:
        ConfigError: If there is none; lists the valid names.
    """
    if dataset not in SYNTHETIC_SETS:
        raise ConfigError(f"--dataset needs one of {', '.join(SYNTHETIC_SETS)}; got {dataset!r}.")
    return SYNTHETIC_SETS[dataset]


def synthesize(config: AnyConfig, output: str) -> SyntheticResult:
    """Write a synthetic set; if stderr is a terminal, show a progress bar there.

    Args:
        config: The set.
        output: Folder to write into.

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
        return _write(config, output, lambda done, _: bar.update(task, completed=done))


def _write(config: AnyConfig, output: str, on_clip: Callable[[int, int], None]) -> SyntheticResult:
    """Call the writer of a set. The writers are imported here, because ``--help`` imports this module."""
    from pipelines.synthetic.ave_layout import write_synthetic_ave
    from pipelines.synthetic.avqa_layout import write_synthetic_avqa
    from pipelines.synthetic.avs_layout import write_synthetic_avs

    match config:
        case SyntheticConfig():
            return write_synthetic_ave(config, output, on_clip=on_clip)
        case SyntheticAVSConfig():
            return write_synthetic_avs(config, output, on_clip=on_clip)
        case SyntheticAVQAConfig():
            return write_synthetic_avqa(config, output, on_clip=on_clip)


def run(config: AnyConfig, output: str, *, dataset: str, as_json: bool) -> None:
    """Write a synthetic set and print a summary, as JSON if ``as_json``.

    Raises:
        ConfigError: As ``synthesize``.
    """
    result = synthesize(config, output)
    made_with = {name: getattr(config, name) for name in (*options_of(type(config)), "seed")}
    made_with.pop("num_workers", None)
    if as_json:
        values = {"root": str(result.root), "clips": result.split_sizes, "size_bytes": result.num_bytes}
        print(json.dumps(values | made_with, indent=2))
        return
    clips = ", ".join(f"{count} {split}" for split, count in result.split_sizes.items())
    chosen = ", ".join(f"{name} {value}" for name, value in made_with.items())
    print(f"Synthetic {dataset}, {chosen}: {clips}; {result.num_bytes / 1e6:,.1f} MB")
    print(f"  clips    {result.root}")
    print(f"  next     stgcma-jobs preprocess --dataset {dataset} --source {result.root} --output SHARDS --fbank demo")
