"""Exchange between workers: means, sums and gathered objects. Without a process group there is one worker.

Gradients are averaged here in one flat buffer and not by ``DistributedDataParallel``. Only a few per cent of the
parameters are trained, and an unused gate has no gradient on any worker.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of workers; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this worker; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def average_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the workers, in place.

    All workers must pass the same shapes in the same order. The tensors of a call must share device and type.
    """
    tensors = list(tensors)
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def total(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add ``{name: float64 tensor on the CPU}`` over the workers. All workers must pass the same names."""
    if world_size() == 1:
        return sums
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    added = {}
    for name in sorted(sums):
        value = sums[name].to(device, copy=True)
        dist.all_reduce(value)
        added[name] = value.cpu()
    return added


def gather(value: Any) -> list[Any]:
    """A small Python object from every worker, in the order of the ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until all workers are here, e.g. after the first one has written a file."""
    gather(None)
