"""Settings of the synthetic sets. ``--help`` reads their options from here, so this file needs no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pipelines.options import option
from pipelines.synthetic.scenes import SHAPES, TASKS, SyntheticTask
from stgcma.errors import ConfigError

AVSLayout = Literal["s4", "ms3"]
AVS_LAYOUTS: tuple[AVSLayout, ...] = get_args(AVSLayout)
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Settings of a synthetic AVE. Sizes count clips."""

    task: SyntheticTask = option("t4", "t1: seen and heard; t3: off-screen impostors; t4: which of two objects sounds.")
    num_train: int = 400
    num_val: int = 100
    num_test: int = 200
    seed: int = 0
    num_workers: int | None = option(None, "Encoding processes  [default: one per CPU]")

    def __post_init__(self) -> None:
        problems = []
        if self.task not in TASKS:
            problems.append(f"task needs one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.num_train < len(SHAPES):
            problems.append(f"num_train needs at least {len(SHAPES)} clips, one per category, got {self.num_train}.")
        if min(self.num_val, self.num_test) < 1:
            problems.append(f"num_val and num_test need at least 1 clip, got {self.num_val} and {self.num_test}.")
        if self.num_workers is not None and self.num_workers < 1:
            problems.append(f"num_workers needs at least 1 process, got {self.num_workers}.")
        if problems:
            raise ConfigError(*(f"Synthetic AVE: {problem}" for problem in problems))

    @property
    def split_sizes(self) -> dict[str, int]:
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}


@dataclass(frozen=True, kw_only=True)
class SyntheticAVSConfig:
    """Settings of a synthetic AVSBench. Sizes count clips."""

    layout: AVSLayout
    num_train: int = 600
    num_val: int = 100
    num_test: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} needs at least {least}, got {value}."
            for name, value, least in (
                ("num_train", self.num_train, len(SHAPES)),
                ("num_val", self.num_val, 1),
                ("num_test", self.num_test, 1),
            )
            if value < least
        ]
        if self.layout not in AVS_LAYOUTS:
            problems.append(f"layout needs one of {', '.join(AVS_LAYOUTS)}, got {self.layout!r}.")
        if problems:
            raise ConfigError(*(f"Synthetic AVS: {problem}" for problem in problems))

    @property
    def split_sizes(self) -> dict[str, int]:
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}


@dataclass(frozen=True, kw_only=True)
class SyntheticAVQAConfig:
    """Settings of a synthetic MUSIC-AVQA. Sizes count videos."""

    num_train: int = 600
    num_val: int = 100
    num_test: int = 200
    seed: int = 0
    questions_per_type: int = option(8, "Most questions of one type about a video; 8 gives about 18 in total.")
    num_workers: int | None = option(None, "Encoding processes  [default: one per CPU]")

    def __post_init__(self) -> None:
        for name in ("num_train", "num_val", "num_test", "questions_per_type"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Synthetic MUSIC-AVQA: {name} needs at least 1, got {getattr(self, name)}.")
        if self.num_workers is not None and self.num_workers < 1:
            raise ConfigError(f"Synthetic MUSIC-AVQA: num_workers needs at least 1, got {self.num_workers}.")

    @property
    def split_sizes(self) -> dict[str, int]:
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}
