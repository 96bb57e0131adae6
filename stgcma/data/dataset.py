"""From shards to batches: ``build_loaders`` gives a ``ClipLoader`` for each split, ``epoch(n)`` gives batches."""

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
    """Batches of one split for one worker, in an order that no worker count, process count or resume changes.

    Args:
        reader: Makes examples and batches.
        sampler: Decides which units each step sees.
        num_processes: Decoding processes; 0 decodes in this one. They are started at the first epoch and kept.
    """

    def __init__(self, reader: Reader, sampler: TrainSampler | EvalSampler, num_processes: int = 0) -> None:
        self.reader = reader
        self.sampler = sampler
        self.num_processes = num_processes
        self._plan = _EpochPlan(sampler)
        self._processes: DataLoader | None = None

    def __len__(self) -> int:
        """Training: optimiser steps per epoch. Evaluation: batches of this worker."""
        return len(self.sampler)

    @property
    def num_clips(self) -> int:
        """Units of the whole split, over all workers."""
        return self.reader.num_units

    @property
    def manifest(self) -> ShardManifest:
        return self.reader.context.manifest

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[AVBatch]:
        """The batches of one epoch from ``start_step`` on, as CPU tensors."""
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
            multiprocessing_context="spawn" if is_remote else None,  # object store clients do not survive a fork
        )


class _EpochPlan:
    """The batch sampler of kept processes: the next epoch to hand out."""

    def __init__(self, sampler: TrainSampler | EvalSampler) -> None:
        self.sampler = sampler
        self.epoch = self.start_step = 0

    def __iter__(self) -> Iterator[list[Unit]]:
        return self.sampler.batches(self.epoch, self.start_step)


class _UnitDataset(Dataset):
    """The reader as torch's ``DataLoader`` wants it; keys are (epoch, number), so processes need no epoch state."""

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
    """Find the shards that fit, once, check them, and read some of their splits.

    Args:
        data: Which shards, augmentation, decoding processes.
        optim: ``batch_size`` (over all workers), ``eval_batch_size`` (per worker) and ``seed`` are read.
        spec: Backbone: image size.
        reading: What the task reads: ``task.reading(spec)``.
        splits: Some of ``train``, ``val`` and ``test``.
        training: Whether ``train`` is shuffled and augmented, incomplete batches dropped. Every other split, and all
            of them otherwise, gives every unit once, in order.
        rank: This worker.
        world_size: Number of workers.
        branches: Modalities the model reads (``AdaptationConfig.running``); the other's columns are not touched.

    Returns:
        Split -> batches of this worker.

    Raises:
        ShardMismatchError: If the shards are absent, incomplete, or lack what the backbone and task read.
        ConfigError: If the batch cannot be dealt to the workers.
    """
    fbank = reading.fbank if "audio" in branches else None
    manifest = select_manifest(data.shards, data.dataset, fbank=fbank, fingerprint=data.fingerprint)
    annotation = manifest.metadata.annotation
    if annotation != reading.annotation:
        raise ShardMismatchError(
            f"The task reads {reading.annotation}, the shards of {data.dataset!r} store {annotation}. Set data.dataset "
            f"to a dataset with {reading.annotation}, or task to one that reads {annotation}."
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
