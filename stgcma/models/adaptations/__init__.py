"""Ways of adapting a frozen backbone, by the name that ``model.adaptation.method`` gives them."""

from stgcma.models.adaptations.base import Adaptation, BlockPlace, PlainBlock
from stgcma.models.adaptations.full import FullFinetuning
from stgcma.models.adaptations.none import NoAdaptation
from stgcma.models.adaptations.stg_cma import STGCMA

ADAPTATIONS: dict[str, type[Adaptation]] = {
    "stg_cma": STGCMA,
    "full": FullFinetuning,
    "none": NoAdaptation,
}

DEFAULT_METHOD = "stg_cma"
"""The method of settings that name none."""

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
