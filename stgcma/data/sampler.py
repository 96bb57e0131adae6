"""Samplers: the units of a step depend only on (seed, epoch, step), not on the number of workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stgcma.errors import ConfigError

Unit = tuple[int, int]
"""(epoch, index): what a reader needs to make one example, augmentation included."""


def epoch_order(num_units: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of one training epoch, ``[num_units]`` int64."""
    return np.random.default_rng((seed, epoch)).permutation(num_units)


class TrainSampler:
    """Shuffled epochs of equal length. Every worker gets one contiguous piece of every global batch.

    The last, incomplete batch of an epoch is dropped, as published.

    Args:
        num_units: Units of the split (``Reader.num_units``).
        batch_size: Units of a step over all workers.
        seed: Seed of the run.
        rank: Index of this worker.
        world_size: Number of workers.

    Raises:
        ConfigError: If ``world_size`` does not divide ``batch_size``, or the split has fewer units than a batch.
    """

    def __init__(self, num_units: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size % world_size:
            raise ConfigError(
                f"optim.batch_size counts the clips of all workers and must be a multiple of their number, got "
                f"{batch_size} clips for {world_size} workers. Set optim.batch_size to a multiple of {world_size}."
            )
        if num_units < batch_size:
            raise ConfigError(
                f"optim.batch_size: {batch_size} exceeds the {num_units} training clips, so no batch is complete. "
                "Set a smaller optim.batch_size, or preprocess more clips."
            )
        self.num_units, self.batch_size, self.seed = num_units, batch_size, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        """Steps per epoch."""
        return self.num_units // self.batch_size

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[list[Unit]]:
        """The units of every step of this worker, from ``start_step`` on."""
        order = epoch_order(self.num_units, self.seed, epoch)
        share = self.batch_size // self.world_size
        for step in range(start_step, len(self)):
            begin = step * self.batch_size + self.rank * share
            yield [(epoch, int(index)) for index in order[begin : begin + share]]


class EvalSampler:
    """Every unit once, in order. Every worker gets one contiguous part without duplicates.

    Neighbours stay together, so each row group is read once.

    Args:
        num_units: Units of the split.
        batch_size: Units per batch of one worker. The last batch may be smaller.
        rank: Index of this worker.
        world_size: Number of workers.
    """

    def __init__(self, num_units: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.batch_size = batch_size
        self.begin, self.end = (num_units * r // world_size for r in (rank, rank + 1))

    def __len__(self) -> int:
        """Batches of this worker."""
        return -(-(self.end - self.begin) // self.batch_size)

    def batches(self, epoch: int = 0, start_step: int = 0) -> Iterator[list[Unit]]:
        """The units of every batch of this worker, from ``start_step`` on."""
        for step in range(start_step, len(self)):
            begin = self.begin + step * self.batch_size
            yield [(epoch, index) for index in range(begin, min(begin + self.batch_size, self.end))]
