"""One comparison with the reference's numbers: what was compared, how far apart, how far apart it may be."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Check:
    """A measured error and its tolerance, e.g. the relative L2 error of one output tensor."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """False for NaN as well."""
        return self.error <= self.tolerance


def relative_l2(got: Tensor, expected: Tensor) -> float:
    """``|got - expected| / |expected|`` over all elements, in float64; the plain norm when ``expected`` is all zero.

    Raises:
        ValueError: If the shapes differ, so that nothing is broadcast by accident.
    """
    if got.shape != expected.shape:
        raise ValueError(f"relative_l2 needs equal shapes, got {list(got.shape)} and {list(expected.shape)}.")
    got, expected = got.detach().double().cpu(), expected.detach().double().cpu()
    scale = expected.norm().item()
    return (got - expected).norm().item() / (scale or 1.0)


def read_model_config(metadata: Mapping[str, str] | None) -> dict:
    """The reference's model configuration in a golden file's metadata, written as a Python literal; {} where absent."""
    return ast.literal_eval((metadata or {}).get("config", "{}"))


class SkippedFile(Exception):
    """A golden file of a design this library does not have, with the reason."""
