"""Containers of modules that keep the type of what they hold, for type checkers. State dict names are torch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Self, TypeVar, cast, overload

from torch import nn

M = TypeVar("M", bound=nn.Module)


class TypedModuleDict(nn.ModuleDict, Generic[M]):
    """An ``nn.ModuleDict`` whose values are all of type ``M``."""

    def __getitem__(self, key: str) -> M:
        return cast(M, super().__getitem__(key))


class TypedModuleList(nn.ModuleList, Generic[M]):
    """An ``nn.ModuleList`` whose modules are all of type ``M``."""

    def __iter__(self) -> Iterator[M]:
        return cast(Iterator[M], super().__iter__())

    @overload
    def __getitem__(self, idx: slice) -> Self: ...

    @overload
    def __getitem__(self, idx: int) -> M: ...

    def __getitem__(self, idx: int | slice) -> M | Self:
        return cast("M | Self", super().__getitem__(idx))


def children_of(container: nn.Module, kind: type[M]) -> list[M]:
    """The children of another library's container, in order.

    Raises:
        TypeError: If one of them is not a ``kind``.
    """
    children = []
    for child in container.children():
        if not isinstance(child, kind):
            raise TypeError(f"{type(container).__name__} needs children of {kind.__name__}, got {type(child).__name__}")
        children.append(child)
    return children
