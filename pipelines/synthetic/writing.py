"""What the writers of synthetic sets share: their result, their processes, and never mixing two sets in one folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from stgcma.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class SyntheticResult:
    """What was written and where."""

    root: Path
    split_sizes: dict[str, int]
    num_bytes: int


def refuse_another_set(root: Path, files: Mapping[str, str]) -> None:
    """Check that the lists in a folder, where there are any, are those that will be written.

    Args:
        root: Folder of the set.
        files: Path below ``root`` -> text.

    Raises:
        ConfigError: If a file is there with another text.
    """
    for name, text in files.items():
        path = root / name
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path} belongs to another dataset: it was made with other sizes, options or seed. "
                "Give the options it was made with, choose another --output folder, or remove this one."
            )


def in_processes(function: Callable[..., T], calls: Sequence[tuple[Any, ...]], num_workers: int | None) -> Iterator[T]:
    """Results of ``function(*call)`` in the order of the calls.

    Args:
        function: A function that other processes can import.
        calls: Its arguments, call by call.
        num_workers: Processes; None: one per core; 1: this one.
    """
    workers = num_workers or len(os.sched_getaffinity(0))
    if workers == 1:
        yield from starmap(function, calls)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, *zip(*calls, strict=True), chunksize=8)
