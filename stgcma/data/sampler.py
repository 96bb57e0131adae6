"""Which clips a step sees: a pure function of (seed, epoch, step), the same at any number of workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stgcma.errors import ConfigError

Unit = tuple[int, int]
"""(epoch, index): all that a reader needs to produce one example, augmentation included."""


def epoch_order(num_units: int, seed: int, epoch: int) -> np.ndarray:
    """``[num_units]`` int64: the permutation of one training epoch."""
    return np.random.default_rng((seed, epoch)).permutation(num_units)


class TrainSampler:
    """Shuffled, equally long epochs; every global batch is cut into one contiguous piece per worker.

    The last, incomplete batch of an epoch is dropped (as published).

    Args:
        num_units: Clips of the split (videos or questions, as the reader counts).
        batch_size: Global batch.
        seed: Of the run.
        rank: This worker.
        world_size: Number of workers; must divide ``batch_size``.
    """

    def __init__(self, num_units: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size % world_size:
            raise ConfigError(
                f"optim.batch_size is the batch over all workers and must divide by their number, got {batch_size} "
                f"clips for {world_size} workers. Set optim.batch_size to a multiple of {world_size}."
            )
        if num_units < batch_size:
            raise ConfigError(
                f"optim.batch_size: {batch_size} exceeds the {num_units} training clips there are, so no step could be "
                "made. Set a smaller batch_size or preprocess more clips."
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
    """Every unit once and in order, dealt to the workers in contiguous stretches without duplicates.

    Stretches keep neighbours together, so that each row group is read once.

    Args:
        num_units: Clips of the split.
        batch_size: Clips per batch and worker; the last batch may be smaller.
        rank: This worker.
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
