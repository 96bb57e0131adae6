"""What tasks need from a model, and the messages of the errors."""

from __future__ import annotations

import pytest

from stgcma.config import ModelConfig
from stgcma.errors import ConfigError
from stgcma.models.adaptations import STGCMA, FullFinetuning, NoAdaptation
from stgcma.models.backbones import backbone_spec, backbone_specs
from stgcma.tasks import TASKS
from stgcma.tasks.requirements import require_model


@pytest.mark.parametrize("backbone", backbone_specs())
@pytest.mark.parametrize("task", TASKS)
def test_tasks_that_need_maps_accept_swin_and_reject_clip(task, backbone):
    config = ModelConfig(backbone=backbone, pretrained="none", adaptation=STGCMA())
    if task != "ave" and backbone.startswith("clip"):
        with pytest.raises(ConfigError, match=f"Task '{task}' needs .* which backbone '{backbone}' does not provide"):
            require_model(TASKS[task], config, backbone_spec(backbone))
    else:
        require_model(TASKS[task], config, backbone_spec(backbone))


@pytest.mark.parametrize(
    ("task", "adaptation", "message"),
    [
        ("avs", NoAdaptation(branches="visual"), "Set model.adaptation.branches: both"),
        ("grounding", STGCMA(branches="audio", adapted_branches="audio"), "needs both branches, got branches: audio"),
        ("avqa", FullFinetuning(), "which model.adaptation.method: full does not have"),
    ],
)
def test_an_adaptation_without_what_the_task_needs_is_rejected(task, adaptation, message):
    config = ModelConfig(backbone="swin_demo", pretrained="none", adaptation=adaptation)
    with pytest.raises(ConfigError, match=message):
        require_model(TASKS[task], config, backbone_spec("swin_demo"))


def test_one_branch_is_enough_to_answer_questions():
    hears = STGCMA(branches="audio", adapted_branches="audio")
    config = ModelConfig(backbone="swin_demo", pretrained="none", adaptation=hears)
    require_model(TASKS["avqa"], config, backbone_spec("swin_demo"))
