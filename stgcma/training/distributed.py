"""The three sums that workers exchange. Without an initialised process group every function is the identity.

Gradients are averaged by hand in one flat bucket, not by ``DistributedDataParallel``: only a few per cent of the
parameters are trained, and a gate that a fusion direction leaves unused has no gradient on any worker.
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
    """Replace each tensor by its mean over the workers, in place. All workers pass the same shapes in the same order.

    Tensors of one call must share device and floating type; they travel as one flat buffer.
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
    """Metric sums added over the workers: ``{name: float64 tensor on the CPU}``, the same names on each."""
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
    """One small Python object of every worker, in the order of the ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all workers, e.g. for a file that the first one writes."""
    gather(None)
