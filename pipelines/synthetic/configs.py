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
class SyntheticSizes:
    """Clips per split, and the seed of everything that is drawn."""

    num_train: int = 600
    num_val: int = 100
    num_test: int = 200
    seed: int = 0

    @property
    def split_sizes(self) -> dict[str, int]:
        """Split -> number of clips."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}

    def check(self, name: str, problems: list[str], *, least_train: int = 1) -> None:
        """Check the sizes.

        Args:
            name: The set, for messages.
            problems: Other problems, one sentence each.
            least_train: Fewest training clips; val and test need one.

        Raises:
            ConfigError: If there is any problem; lists them all.
        """
        too_few = [
            f"num_{split} needs at least {least}, got {size}."
            for (split, size), least in zip(self.split_sizes.items(), (least_train, 1, 1), strict=True)
            if size < least
        ]
        if too_few or problems:
            raise ConfigError(*(f"{name}: {problem}" for problem in (*too_few, *problems)))


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig(SyntheticSizes):
    """Settings of a synthetic AVE. Sizes count clips."""

    task: SyntheticTask = option("t4", "t1: seen and heard; t3: off-screen impostors; t4: which of two objects sounds.")
    num_train: int = 400
    num_workers: int | None = option(None, "Encoding processes  [default: one per CPU]")

    def __post_init__(self) -> None:
        problems = _worker_problems(self.num_workers)
        if self.task not in TASKS:
            problems.append(f"task needs one of {', '.join(TASKS)}, got {self.task!r}.")
        self.check("Synthetic AVE", problems, least_train=len(SHAPES))


@dataclass(frozen=True, kw_only=True)
class SyntheticAVSConfig(SyntheticSizes):
    """Settings of a synthetic AVSBench. Sizes count clips; the first shapes alternate within a split."""

    layout: AVSLayout

    def __post_init__(self) -> None:
        known = self.layout in AVS_LAYOUTS
        problems = [] if known else [f"layout needs one of {', '.join(AVS_LAYOUTS)}, got {self.layout!r}."]
        self.check("Synthetic AVS", problems, least_train=len(SHAPES))


@dataclass(frozen=True, kw_only=True)
class SyntheticAVQAConfig(SyntheticSizes):
    """Settings of a synthetic MUSIC-AVQA. Sizes count videos."""

    questions_per_type: int = option(8, "Most questions of one type about a video; 8 gives about 18 in total.")
    num_workers: int | None = option(None, "Encoding processes  [default: one per CPU]")

    def __post_init__(self) -> None:
        problems = _worker_problems(self.num_workers)
        if self.questions_per_type < 1:
            problems.append(f"questions_per_type needs at least 1, got {self.questions_per_type}.")
        self.check("Synthetic MUSIC-AVQA", problems)


def _worker_problems(num_workers: int | None) -> list[str]:
    return [f"num_workers needs at least 1, got {num_workers}."] if num_workers is not None and num_workers < 1 else []
