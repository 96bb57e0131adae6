"""The result of one comparison with the reference, and what the checks share."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Check:
    """A measured error and its tolerance, e.g. the relative L2 error of one output tensor."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance. A NaN does not pass."""
        return self.error <= self.tolerance


def relative_l2(got: Tensor, expected: Tensor) -> float:
    """``|got - expected| / |expected|`` over all elements, in float64; ``|got|`` if ``expected`` is all zero.

    Raises:
        ValueError: If the shapes differ.
    """
    if got.shape != expected.shape:
        raise ValueError(f"relative_l2 needs equal shapes, got {list(got.shape)} and {list(expected.shape)}.")
    got, expected = got.detach().double().cpu(), expected.detach().double().cpu()
    scale = expected.norm().item()
    return (got - expected).norm().item() / (scale or 1.0)


def read_model_config(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Configuration of the reference from the metadata of a golden file, where it is a Python literal; {} if absent."""
    return ast.literal_eval((metadata or {}).get("config", "{}"))


class SkippedFile(Exception):
    """A check that does not apply, with the reason."""
