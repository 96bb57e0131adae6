"""Parameter groups and the schedule (method section 7)."""

from __future__ import annotations

import json

import pytest
import torch

from stgcma.config import AdaptationConfig, ModelConfig, OptimConfig
from stgcma.models.adaptations import STGCMA, NoAdaptation
from stgcma.models.parameters import trainable_parameters
from stgcma.tasks import build_model, build_task
from stgcma.training.optim import Schedule, base_learning_rates, build_optimizer, learning_rate_at, parameter_groups
from tests.paths import GOLDEN as GOLDEN_FILES

GOLDEN = json.loads((GOLDEN_FILES / "scalars.json").read_text())["schedules"]


@pytest.mark.parametrize("name", list(GOLDEN))
def test_schedule_equals_the_reference(name):
    config, length = GOLDEN[name]["config"], GOLDEN[name]["length"]
    optim = OptimConfig(
        epochs=config["epochs"],
        batch_size=1,
        learning_rate=config["base_value"],
        min_learning_rate=config["final_value"],
        warmup_epochs=config["warmup_epochs"],
    )
    schedule = Schedule.of(optim, config["niter_per_ep"])
    assert schedule.total_steps == length
    samples = {int(step): value for step, value in GOLDEN[name]["samples"].items()}
    samples |= dict(enumerate(GOLDEN[name].get("all", [])))
    for step, value in samples.items():
        assert schedule.at(step)["adapters"] == pytest.approx(value, rel=1e-12), step


def test_first_and_last_steps_of_the_schedule():
    at = {step: learning_rate_at(step, base=1.0, minimum=0.1, warmup_steps=4, total_steps=10) for step in range(10)}
    assert at[0] == 0.0
    assert at[3] == at[4] == 1.0
    assert 0.1 < at[9] < at[8]
    assert learning_rate_at(0, base=1.0, minimum=0.1, warmup_steps=1, total_steps=3) == 0.0
    assert learning_rate_at(0, base=1.0, minimum=0.1, warmup_steps=0, total_steps=3) == 1.0


def model_of(adaptation: AdaptationConfig):
    config = ModelConfig(backbone="clip_vit_demo", pretrained="none", adaptation=adaptation)
    return build_model(build_task("ave", config))


def test_every_trained_parameter_is_in_one_group():
    model = model_of(STGCMA())
    groups = parameter_groups(model)
    names = [name for members in groups.values() for name in members]
    assert sorted(names) == sorted(trainable_parameters(model))
    assert len(groups["gates"]) == 2 * 4
    assert all(parameter.numel() == 1 for parameter in groups["gates"].values())
    head = dict(model.head.named_parameters())
    assert {id(p) for p in groups["head"].values()} == {id(p) for p in head.values()}
    assert any("ln_post" in name for name in groups["adapters"])
    assert any("temporal_embedding" in name for name in groups["adapters"])


def test_learning_rates_of_the_groups():
    optim = OptimConfig(epochs=2, batch_size=1, learning_rate=5e-5, head_learning_rate=5e-6)
    assert base_learning_rates(optim) == {"adapters": 5e-5, "gates": 5e-5, "head": 5e-6}
    optimizer = build_optimizer(model_of(STGCMA()), optim)
    assert [group["name"] for group in optimizer.param_groups] == ["adapters", "gates", "head"]
    assert all(group["betas"] == (0.95, 0.999) and group["weight_decay"] == 5e-7 for group in optimizer.param_groups)
    rates = Schedule.of(optim, steps_per_epoch=10).apply(optimizer, 15)
    assert rates == {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["adapters"] == pytest.approx(10 * rates["head"], rel=0.01)


def test_empty_groups_are_left_out():
    optimizer = build_optimizer(
        model_of(NoAdaptation()),
        OptimConfig(epochs=2, batch_size=1, learning_rate=1e-3),
    )
    assert "gates" not in [group["name"] for group in optimizer.param_groups]


def test_gates_have_their_own_rate():
    optim = OptimConfig(epochs=2, batch_size=1, learning_rate=1e-3, gate_learning_rate=3e-2)
    optimizer = build_optimizer(model_of(STGCMA()), optim)
    rates = Schedule.of(optim, steps_per_epoch=1).apply(optimizer, 1)
    assert rates["gates"] == 3e-2
    assert rates["adapters"] == rates["head"] == 1e-3
    (gates,) = [group for group in optimizer.param_groups if group["name"] == "gates"]
    assert torch.stack([p.detach().reshape(()) for p in gates["params"]]).shape == (8,)
