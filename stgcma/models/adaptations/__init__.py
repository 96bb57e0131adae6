"""The registry of adaptation methods. A new method is one file here and one line in ``ADAPTATIONS``."""

from stgcma.models.adaptations.base import Adaptation, BlockPlace, PlainBlock
from stgcma.models.adaptations.full import FullFinetuning
from stgcma.models.adaptations.none import NoAdaptation
from stgcma.models.adaptations.stg_cma import STGCMA

ADAPTATIONS: dict[str, type[Adaptation]] = {
    "stg_cma": STGCMA,
    "full": FullFinetuning,
    "none": NoAdaptation,
}
"""``model.adaptation.method`` -> its class."""

DEFAULT_METHOD = "stg_cma"
"""The method of settings that do not name one."""

__all__ = [
    "ADAPTATIONS",
    "DEFAULT_METHOD",
    "STGCMA",
    "Adaptation",
    "BlockPlace",
    "FullFinetuning",
    "NoAdaptation",
    "PlainBlock",
]
