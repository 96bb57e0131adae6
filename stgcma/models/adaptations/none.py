"""No adaptation: the baseline of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stgcma.models.adaptations.base import Adaptation


@dataclass(frozen=True, kw_only=True)
class NoAdaptation(Adaptation):
    """The plain frozen backbone without attention over time. The head is trained, and the final norm of CLIP."""

    method: Literal["none"] = "none"
