"""Settings that cannot work are refused when they are built, all of them at once."""

from __future__ import annotations

import math
from typing import Any

import pytest

from stgcma.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig
from stgcma.errors import ConfigError
from stgcma.models.adaptations import NoAdaptation

GOOD: dict[str, Any] = {"epochs": 3, "batch_size": 2, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval_batch_size": 0}, "optim.eval_batch_size needs at least 1, got 0."),
        ({"seed": -1}, "optim.seed needs 0 or more, got -1."),
        ({"warmup_epochs": -0.5}, "optim.warmup_epochs needs 0 or more, got -0.5."),
        ({"warmup_epochs": 4}, "optim.warmup_epochs: 4 exceeds optim.epochs: 3."),
        ({"min_learning_rate": 1e-2}, "optim.min_learning_rate: 0.01 exceeds optim.learning_rate: 0.001"),
        ({"gate_learning_rate": 1e-6}, "optim.min_learning_rate: 2e-06 exceeds optim.gate_learning_rate: 1e-06"),
        ({"learning_rate": math.nan}, "optim.learning_rate needs a positive number, got nan."),
        ({"head_learning_rate": math.inf}, "optim.head_learning_rate needs a positive number, got inf."),
        ({"weight_decay": -1e-3}, "optim.weight_decay needs 0 or more, got -0.001."),
        ({"betas": (0.9, 1.0)}, r"optim.betas needs two numbers in \[0, 1\), got \[0.9, 1.0\]."),
        ({"eps": 0.0}, "optim.eps needs a positive number, got 0.0."),
        ({"grad_clip_norm": 0.0}, "optim.grad_clip_norm needs a positive number, got 0.0."),
        ({"checkpoint_every_steps": 0}, "optim.checkpoint_every_steps needs at least 1, got 0."),
        ({"patience_epochs": 0}, "optim.patience_epochs needs at least 1, got 0."),
        ({"max_minutes": -1.0}, "optim.max_minutes needs a positive number, got -1.0."),
        ({"average_epochs": (2, 5)}, "optim.average_epochs needs 1 <= first <= last <= epochs"),
    ],
)
def test_optimiser_settings_outside_their_range(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        OptimConfig(**{**GOOD, **change})


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        OptimConfig(**{**GOOD, "seed": -1, "eval_batch_size": 0, "eps": 0.0})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DataConfig(dataset="ave", loader_workers=-1), "data.loader_workers needs 0 or more, got -1."),
        (lambda: DataConfig(dataset="ave", limit_train_clips=0), "data.limit_train_clips needs at least 1, got 0."),
        (lambda: DataConfig(dataset="ave", questions_per_video=0), "data.questions_per_video needs at least 1, got 0."),
        (lambda: AugmentConfig(mixup_probability=1.5), "data.augment.mixup_probability needs a probability"),
        (lambda: AugmentConfig(mixup_beta=0.0), "data.augment.mixup_beta needs a positive number, got 0.0."),
        (lambda: AugmentConfig(crop_scale=(0.5, 1.5)), "data.augment.crop_scale needs 0 < low <= high <= 1"),
        (lambda: AugmentConfig(crop_ratio=(2.0, 1.0)), "data.augment.crop_ratio needs 0 < low <= high, got 2.0, 1.0"),
        (
            lambda: ModelConfig(backbone="swin_demo", pretrained="none", adaptation=NoAdaptation(), num_classes=0),
            "model.num_classes needs at least 1, got 0.",
        ),
    ],
)
def test_other_settings_outside_their_range(build: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        build()
