"""Python's garbage collector, paused where millions of objects are made that live on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """A block in which no cycles are searched for.

    The collector walks everything that is alive whenever that has grown by a quarter, and finds nothing in a list of
    clips: at a million clips it takes two thirds of the time of planning.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
