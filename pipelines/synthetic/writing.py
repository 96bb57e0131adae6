"""What the writers of synthetic sets share: names, processes, and never mixing two sets in one folder."""

from __future__ import annotations

import base64
import hashlib
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


def video_name(key: str, index: int) -> str:
    """A name of 11 characters like YouTube's; every fifth begins with ``-``, which path handling must survive.

    Args:
        key: What the clips of one split share.
        index: Number of the clip in its split.
    """
    digest = hashlib.sha256(f"{key}/{index}".encode()).digest()
    name = base64.urlsafe_b64encode(digest).decode()[:11]
    return f"-{name[1:]}" if index % 5 == 0 else name


def refuse_another_set(root: Path, files: Mapping[str, str]) -> None:
    """Check that the lists in a folder, if there are any, are the ones that will be written.

    Args:
        root: Folder of the set.
        files: Path below ``root`` -> text.

    Raises:
        ConfigError: If a file exists with another text.
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
        num_workers: Processes; None: one per CPU; 1: this process.
    """
    workers = num_workers or len(os.sched_getaffinity(0))
    if workers == 1:
        yield from starmap(function, calls)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, *zip(*calls, strict=True), chunksize=8)
