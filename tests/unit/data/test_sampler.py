"""The order of units depends only on (seed, epoch), not on the number of workers or the first step."""

from __future__ import annotations

import pytest

from stgcma.data.sampler import EvalSampler, TrainSampler, epoch_order
from stgcma.errors import ConfigError


def global_batches(world_size: int, epoch: int = 3, start_step: int = 0) -> list[list[tuple[int, int]]]:
    workers = [TrainSampler(23, 6, seed=5, rank=r, world_size=world_size) for r in range(world_size)]
    steps = zip(*(worker.batches(epoch, start_step) for worker in workers), strict=True)
    return [[unit for share in step for unit in share] for step in steps]


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_global_batches_do_not_depend_on_the_number_of_workers(world_size):
    assert global_batches(world_size) == global_batches(1)


def test_an_epoch_is_a_permutation_without_its_incomplete_batch():
    batches = global_batches(1)
    seen = [number for batch in batches for _, number in batch]
    assert len(batches) == len(TrainSampler(23, 6, seed=5)) == 3
    assert len(set(seen)) == len(seen) == 18
    assert sorted(epoch_order(23, 5, 3)) == list(range(23))
    assert seen == epoch_order(23, 5, 3)[:18].tolist()


def test_a_resumed_epoch_continues_with_the_next_step():
    assert global_batches(2, start_step=2) == global_batches(2)[2:]


def test_orders_differ_between_epochs_and_seeds():
    assert len({tuple(epoch_order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 11])
def test_evaluation_gives_every_unit_once(world_size):
    samplers = [EvalSampler(7, 2, r, world_size) for r in range(world_size)]
    batches = [list(sampler.batches()) for sampler in samplers]
    assert [number for worker in batches for batch in worker for _, number in batch] == list(range(7))
    assert [len(worker) for worker in batches] == [len(sampler) for sampler in samplers]
    assert all(len(batch) <= 2 for worker in batches for batch in worker)
    assert list(samplers[0].batches(0, 1)) == batches[0][1:]


def test_batches_that_workers_cannot_share_are_rejected():
    with pytest.raises(ConfigError, match=r"got 3 clips for 2 workers. Set optim.batch_size to a multiple of 2"):
        TrainSampler(10, 3, seed=0, world_size=2)
    with pytest.raises(ConfigError, match="batch_size: 8 exceeds the 5 training clips"):
        TrainSampler(5, 8, seed=0)
