"""From shards to batches: ``build_loaders`` makes a ``ClipLoader`` per split, which yields the batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from stgcma.backbone_spec import BackboneSpec
from stgcma.config import BRANCHES, Branch, DataConfig, OptimConfig
from stgcma.data.batch import AVBatch
from stgcma.data.manifest import ShardManifest, select_manifest
from stgcma.data.reader import ReadContext, Reader, Reading
from stgcma.data.sampler import EvalSampler, TrainSampler, Unit
from stgcma.data.store import ShardStore
from stgcma.errors import ShardMismatchError


class ClipLoader:
    """Batches of one split for one worker.

    The order depends only on the seed and the epoch, not on the number of workers or processes or on a resume.

    Args:
        reader: Makes examples and batches.
        sampler: Chooses the units of every step.
        num_processes: Decoding processes, started in the first epoch and then kept. 0: decode in this process.
    """

    def __init__(self, reader: Reader, sampler: TrainSampler | EvalSampler, num_processes: int = 0) -> None:
        self.reader = reader
        self.sampler = sampler
        self.num_processes = num_processes
        self._plan = _EpochPlan(sampler)
        self._processes: DataLoader | None = None

    def __len__(self) -> int:
        """Optimiser steps per epoch in training; batches of this worker in evaluation."""
        return len(self.sampler)

    @property
    def num_clips(self) -> int:
        """Units of the whole split, over all workers."""
        return self.reader.num_units

    @property
    def manifest(self) -> ShardManifest:
        return self.reader.context.manifest

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[AVBatch]:
        """Batches of one epoch from ``start_step`` on, as CPU tensors."""
        if self.num_processes == 0:
            for units in self.sampler.batches(epoch, start_step):
                yield self.reader.collate([self.reader.example(unit) for unit in units])
            return
        if self._processes is None:
            self._processes = self._start_processes()
        self._plan.epoch, self._plan.start_step = epoch, start_step
        yield from self._processes

    def _start_processes(self) -> DataLoader:
        is_remote = "://" in self.reader.context.store.uri
        return DataLoader(
            _UnitDataset(self.reader),
            batch_sampler=self._plan,
            collate_fn=self.reader.collate,
            num_workers=self.num_processes,
            persistent_workers=True,
            multiprocessing_context="spawn" if is_remote else None,  # clients of object stores do not survive a fork
        )


class _EpochPlan:
    """Batch sampler for decoding processes that outlive an epoch. ``epoch`` and ``start_step`` say what comes next."""

    def __init__(self, sampler: TrainSampler | EvalSampler) -> None:
        self.sampler = sampler
        self.epoch = self.start_step = 0

    def __iter__(self) -> Iterator[list[Unit]]:
        return self.sampler.batches(self.epoch, self.start_step)


class _UnitDataset(Dataset):
    """Adapts a reader to torch's ``DataLoader``. Keys are (epoch, number), so the processes hold no epoch."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return self.reader.num_units

    def __getitem__(self, unit: Unit) -> Any:
        return self.reader.example(unit)


def build_loaders(
    data: DataConfig,
    optim: OptimConfig,
    spec: BackboneSpec,
    reading: Reading,
    splits: Iterable[str],
    *,
    training: bool,
    rank: int = 0,
    world_size: int = 1,
    branches: tuple[Branch, ...] = BRANCHES,
) -> dict[str, ClipLoader]:
    """Find the shards that fit the run, check them, and build a loader for each split.

    Args:
        data: Which shards to read, augmentation, number of decoding processes.
        optim: Supplies ``batch_size`` (over all workers), ``eval_batch_size`` (per worker) and ``seed``.
        spec: Backbone; supplies image size and image statistics.
        reading: What the task reads, from ``task.reading(spec)``.
        splits: Some of ``train``, ``val`` and ``test``.
        training: True: ``train`` is shuffled and augmented, and its last incomplete batch is dropped. All other splits,
            and ``train`` if False, give every unit once, in order.
        rank: Index of this worker.
        world_size: Number of workers.
        branches: Branches that run (``AdaptationConfig.running``). The columns of the other branch are not read.

    Returns:
        Split -> loader of this worker.

    Raises:
        ShardMismatchError: If the shards are missing or incomplete, or lack what the backbone and the task read.
        ConfigError: If the workers cannot share the batch equally.
    """
    fbank = reading.fbank if "audio" in branches else None
    manifest = select_manifest(data.shards, data.dataset, fbank=fbank, fingerprint=data.fingerprint)
    annotation = manifest.metadata.annotation
    if annotation != reading.annotation:
        raise ShardMismatchError(
            f"The task reads {reading.annotation}, but the shards of {data.dataset!r} store {annotation}. Set "
            f"data.dataset to a dataset with {reading.annotation}, or set task to one that reads {annotation}."
        )
    store = ShardStore(data.shards, manifest)

    def loader(split: str, train: bool) -> ClipLoader:
        context = ReadContext(
            data=data,
            spec=spec,
            fbank_name=reading.fbank,
            store=store,
            split=split,
            train=train,
            seed=optim.seed,
            branches=branches,
            global_batch=optim.batch_size,
            world_size=world_size,
        )
        reader = reading.reader(context)
        sampler: TrainSampler | EvalSampler
        if train:
            sampler = TrainSampler(reader.num_units, optim.batch_size, optim.seed, rank, world_size)
        else:
            sampler = EvalSampler(reader.num_units, optim.eval_batch_size, rank, world_size)
        return ClipLoader(reader, sampler, data.loader_workers)

    return {split: loader(split, training and split == "train") for split in splits}
