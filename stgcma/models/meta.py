"""Fast building and running of models on the meta device, with a count of their operations.

On the meta device torch computes the shape of every result in Python, which takes seconds for a large model. A
transformer repeats the same few shapes in every block, so ``MetaMode`` remembers the result for each.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_Shape = tuple[torch.Size, tuple[int, ...], torch.dtype]

_MEMORY: dict[Any, tuple[int, type, list[_Shape | None]]] = {}
"""(Operation, shapes of its arguments) -> cost, container and shapes of its results. Kept until the process ends."""


class MetaMode(TorchDispatchMode):
    """While active, reuses the result of an operation on meta tensors if it has run with the same shapes before.

    ``flops`` is the sum of the costs by the formulas of ``torch.utils.flop_counter.FlopCounterMode``: matrix products,
    convolutions and fused attention, with two operations per multiply-add.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        effect = _effect(func)
        if effect != "new tensors":
            return args[0] if effect == "new values" and args[0].is_meta else func(*args, **kwargs)
        key = (func, _signature(args), _signature(tuple(kwargs.items())))
        if key in _MEMORY:
            cost, kind, shapes = _MEMORY[key]
            self.flops += cost
            made = [None if s is None else torch.empty_strided(s[0], s[1], dtype=s[2], device="meta") for s in shapes]
            return made[0] if kind is Tensor else kind(made)
        out = func(*args, **kwargs)
        cost = _cost(func, args, kwargs, out)
        self.flops += cost
        kind = type(out) if isinstance(out, (tuple, list)) else Tensor
        values = list(out) if isinstance(out, (tuple, list)) else [out]
        if all(value is None or (isinstance(value, Tensor) and value.is_meta) for value in values):
            _MEMORY[key] = cost, kind, [None if v is None else (v.shape, v.stride(), v.dtype) for v in values]
        return out


@cache
def _effect(func: OpOverload) -> Literal["new tensors", "new values", "view"]:
    """What an operation makes: new tensors, new values in its first argument (in place), or a view."""
    if all(value.alias_info is None for value in func._schema.returns):
        return "new tensors"
    works_in_place = func._schema.name.endswith("_") and torch.Tag.inplace_view not in func.tags
    return "new values" if works_in_place else "view"


def _signature(value: Any) -> Any:
    """The properties of an argument on which the shape of the result can depend."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, (tuple, list)):
        return tuple(_signature(item) for item in value)
    return type(value), value


def _cost(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Floating-point operations of a call.

    Raises:
        NotImplementedError: If torch has no formula for a fused attention.
    """
    formula = flop_registry.get(func._overloadpacket)
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=out))
    if "attention" in func._schema.name:
        raise NotImplementedError(f"torch.utils.flop_counter has no formula for {func}, so its cost is unknown.")
    return 0
