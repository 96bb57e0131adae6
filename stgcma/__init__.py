"""STG-CMA: cross-modal adapters that let a frozen image transformer see and hear.

This package is the method as a plain PyTorch library. It needs torch, timm, open_clip, safetensors and pyarrow. It does
not use Ray, MLflow or the command line.

Build a model, count its parameters and run it:

>>> import torch, stgcma
>>> config = stgcma.ModelConfig(backbone="clip_vit_demo", pretrained="builtin", adaptation=stgcma.STGCMA())
>>> task = stgcma.build_task("ave", config)
>>> model = stgcma.build_model(task).eval()
>>> stgcma.count_parameters(model).trainable
133413
>>> fbank, _ = stgcma.segment_fbanks(torch.zeros(1, 160_000), stgcma.FBANK_SPECS["demo"], num_segments=10)
>>> batch = stgcma.AVBatch(clip_ids=("silence",), frames=torch.zeros(1, 10, 3, 48, 48), fbank=fbank)
>>> with torch.no_grad():
...     model(batch)["logits"].shape
torch.Size([1, 10, 29])

``stgcma.load`` reads a trained model from a weight file or a run folder, on disk or in a bucket. ``stgcma.save`` writes
a weight file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stgcma.config import DataConfig, ModelConfig, OptimConfig
    from stgcma.data.batch import AVBatch
    from stgcma.data.fbank import FBANK_SPECS, FbankSpec, normalize_fbank, segment_fbanks
    from stgcma.models.adaptations import ADAPTATIONS, STGCMA, FullFinetuning, NoAdaptation
    from stgcma.models.encoder import AudioVisualEncoder, AVFeatures
    from stgcma.models.parameters import ParameterCount, count_parameters
    from stgcma.tasks import TASKS, build_model, build_task
    from stgcma.tasks.base import AudioVisualModel, Task
    from stgcma.training.trained_model import FbankNormalization, ModelInfo, TrainedModel, load, save

__version__ = "0.1.0"

_HOMES = {
    "stgcma.config": ("DataConfig", "ModelConfig", "OptimConfig"),
    "stgcma.data.batch": ("AVBatch",),
    "stgcma.data.fbank": ("FBANK_SPECS", "FbankSpec", "normalize_fbank", "segment_fbanks"),
    "stgcma.models.adaptations": ("ADAPTATIONS", "STGCMA", "FullFinetuning", "NoAdaptation"),
    "stgcma.models.encoder": ("AVFeatures", "AudioVisualEncoder"),
    "stgcma.models.parameters": ("ParameterCount", "count_parameters"),
    "stgcma.tasks": ("TASKS", "build_model", "build_task"),
    "stgcma.tasks.base": ("AudioVisualModel", "Task"),
    "stgcma.training.trained_model": ("FbankNormalization", "ModelInfo", "TrainedModel", "load", "save"),
}
"""Module -> the names that this package offers from it. They are imported on first use, so that commands start fast."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ADAPTATIONS",
    "FBANK_SPECS",
    "STGCMA",
    "TASKS",
    "AVBatch",
    "AVFeatures",
    "AudioVisualEncoder",
    "AudioVisualModel",
    "DataConfig",
    "FbankNormalization",
    "FbankSpec",
    "FullFinetuning",
    "ModelConfig",
    "ModelInfo",
    "NoAdaptation",
    "OptimConfig",
    "ParameterCount",
    "Task",
    "TrainedModel",
    "build_model",
    "build_task",
    "count_parameters",
    "load",
    "normalize_fbank",
    "save",
    "segment_fbanks",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'stgcma' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
