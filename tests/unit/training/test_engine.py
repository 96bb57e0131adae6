"""The loops: one step, frozen weights, randomness, precision, and several workers."""

from __future__ import annotations

import multiprocessing as mp
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from stgcma.config import ModelConfig, OptimConfig
from stgcma.errors import ConfigError, RunFailedError
from stgcma.models.adaptations import STGCMA
from stgcma.models.parameters import trainable_parameters
from stgcma.tasks import build_model, build_task
from stgcma.training import distributed
from stgcma.training.engine import (
    Precision,
    WeightAverage,
    evaluate,
    place_model,
    resolve_device,
    step_seed,
    train_one_epoch,
)
from stgcma.training.optim import Schedule, build_optimizer
from tests.factories import tiny_batch
from tests.paths import ROOT

CONFIG = ModelConfig(backbone="clip_vit_demo", pretrained="none", adaptation=STGCMA())


def setup(**optim):
    torch.manual_seed(0)
    task = build_task("ave", CONFIG)
    model = build_model(task)
    config = OptimConfig(**{"epochs": 2, "batch_size": 2, "learning_rate": 1e-3, "warmup_epochs": 0, **optim})
    return model, task, config, build_optimizer(model, config)


def train(model, task, config, optimizer, batches, **options):
    precision = Precision.choose(config.mixed_precision, "cpu")
    options = {"epoch": 0, "steps_per_epoch": len(batches), **options}
    train_one_epoch(
        model,
        task,
        batches,
        optimizer,
        Schedule.of(config, options["steps_per_epoch"]),
        config=config,
        precision=precision,
        scaler=precision.new_scaler(),
        **options,
    )


def snapshot(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_training_changes_all_trained_and_no_frozen_weights():
    model, task, config, optimizer = setup()
    before = snapshot(model)
    batches = [tiny_batch(seed=s) for s in range(3)]
    train(model, task, config, optimizer, batches)
    trained = trainable_parameters(model)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(trained)
    assert model.training


def test_steps_equal_plain_torch_adam():
    """Two steps against a plain loop: same losses, L2 penalty in Adam, learning rates of the schedule."""
    batches = [tiny_batch(seed=s) for s in range(2)]
    model, task, config, optimizer = setup(weight_decay=1e-2, head_learning_rate=1e-4)
    losses = []
    train(model, task, config, optimizer, batches, on_step=lambda report: losses.append(report.loss))

    other, _, _, _ = setup()
    head = set(other.head.parameters())
    parameters = trainable_parameters(other)
    groups = [
        {"params": [p for p in parameters.values() if p not in head]},
        {"params": [p for p in parameters.values() if p in head]},
    ]
    adam = torch.optim.Adam(groups, lr=1e-3, betas=(0.95, 0.999), eps=1e-8, weight_decay=1e-2)
    other.train()
    for step, batch in enumerate(batches):
        for group, base in zip(adam.param_groups, (1e-3, 1e-4), strict=True):
            group["lr"] = 2e-6 + 0.5 * (base - 2e-6) * (1 + torch.cos(torch.tensor(torch.pi * step / 4)).item())
        torch.manual_seed(step_seed(0, 0, step))
        adam.zero_grad()
        loss = F.cross_entropy(other(batch)["logits"].flatten(0, 1), batch.targets.labels.flatten())
        loss.backward()
        adam.step()
        assert loss.item() == pytest.approx(losses[step], rel=1e-6)
    for name, parameter in parameters.items():
        # a step changes a weight by 1e-3; the fused kernel rounds differently from the loop over tensors
        torch.testing.assert_close(parameter, trainable_parameters(model)[name], rtol=1e-5, atol=5e-7)


def test_randomness_depends_on_the_step_only():
    batches = [tiny_batch(seed=s) for s in range(4)]
    whole, task, config, optimizer = setup()
    train(whole, task, config, optimizer, batches)
    halves, _, _, optimizer = setup()
    train(halves, task, config, optimizer, batches[:2], steps_per_epoch=4)
    torch.rand(7)  # draws between the sessions do not matter
    train(halves, task, config, optimizer, batches[2:], steps_per_epoch=4, start_step=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, halves.state_dict()[name]), name
    seeds = {step_seed(s, e, i, r) for s in range(3) for e in range(3) for i in range(20) for r in range(2)}
    assert len(seeds) == 3 * 3 * 20 * 2


def test_a_loss_that_is_not_finite_names_the_step():
    model, task, config, optimizer = setup()
    bad = tiny_batch(seed=1)
    bad.frames[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(
        RunFailedError, match=r"loss is nan at epoch 1, step 2 of 2 .*clip0000.*Lower optim.learning_rate"
    ):
        train(model, task, config, optimizer, [tiny_batch(), bad])


def test_gradient_clipping_bounds_the_norm():
    model, task, config, optimizer = setup(grad_clip_norm=1e-3)
    train(model, task, config, optimizer, [tiny_batch()])
    norm = torch.stack([p.grad.norm() for p in trainable_parameters(model).values() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_evaluation_adds_sums_over_unequal_batches_and_restores_the_mode():
    model, task, config, optimizer = setup()
    train(model, task, config, optimizer, [tiny_batch(seed=s) for s in range(2)])
    precision = Precision.choose("off", "cpu")
    whole = tiny_batch(num_clips=5, seed=9)
    parts = [slice_batch(whole, 0, 2), slice_batch(whole, 2, 5)]
    one = evaluate(model, task, [whole], precision=precision, detailed=True)
    two = evaluate(model, task, parts, precision=precision, detailed=True)
    assert one.metrics.compute() == two.metrics.compute()
    assert one.num_clips == two.num_clips == 5
    assert model.training
    assert list(two.per_clip) == sorted(whole.clip_ids)
    correct = torch.stack([scores["correct"] for scores in two.per_clip.values()])
    assert correct.float().mean().item() == pytest.approx(one.metrics.compute()["accuracy"])
    with torch.no_grad():
        logits = model.eval()(whole)["logits"]
    assert torch.equal(correct, logits.argmax(-1) == whole.targets.labels)
    assert evaluate(model, task, [whole], precision=precision).per_clip == {}


def slice_batch(batch, start, stop):
    return type(batch)(
        clip_ids=batch.clip_ids[start:stop],
        frames=batch.frames[start:stop],
        fbank=batch.fbank[start:stop],
        targets=type(batch.targets)(labels=batch.targets.labels[start:stop]),
    )


def test_a_cpu_computes_in_fp32_and_logs_it(caplog):
    with caplog.at_level("INFO", logger="stgcma.training.engine"):
        precision = Precision.choose("fp16", "cpu")
    assert precision.autocast_dtype is None
    assert not precision.new_scaler().is_enabled()
    assert "mixed_precision: fp16 applies to a GPU; this run computes in fp32 on cpu" in caplog.text
    assert Precision.choose("bf16", "cuda").autocast_dtype is torch.bfloat16


def test_frozen_matrices_are_stored_in_bf16_only_under_bf16_autocast():
    config = replace(CONFIG, frozen_dtype="bfloat16")
    batch = tiny_batch()

    def placed(autocast_dtype):
        torch.manual_seed(0)
        precision = Precision(device=torch.device("cpu"), autocast_dtype=autocast_dtype)
        return place_model(build_model(build_task("ave", config)), config, precision), precision

    plain, _ = placed(None)
    assert {value.dtype for value in plain.state_dict().values()} == {torch.float32}
    halved, precision = placed(torch.bfloat16)
    assert {p.dtype for p in trainable_parameters(halved).values()} == {torch.float32}
    frozen = {name: p.dtype for name, p in halved.encoder.backbone.named_parameters()}
    assert set(frozen.values()) == {torch.bfloat16, torch.float32}
    with torch.no_grad(), precision.autocast():
        got = halved.eval()(batch)["logits"].float()
    with torch.no_grad():
        exact = plain.eval()(batch)["logits"]
    assert (got - exact).norm() / exact.norm() < 0.03


@pytest.mark.skipif(torch.cuda.is_available(), reason="the error is about machines without a GPU")
def test_a_missing_gpu_is_an_error():
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match=r"torch sees no GPU here\. Use auto or cpu"):
        resolve_device("cuda")


def test_the_weight_average_is_the_mean():
    average = WeightAverage()
    for value in (1.0, 2.0, 6.0):
        average.add({"w": torch.full((2,), value), "n": torch.tensor(int(value))})
    assert average.count == 3
    assert torch.equal(average.mean()["w"], torch.full((2,), 3.0))
    assert average.mean()["n"].item() == 6


def test_the_weight_average_does_not_share_memory_with_the_model():
    average, live = WeightAverage(), torch.ones(2)
    average.add({"w": live})
    live += 5
    assert torch.equal(average.mean()["w"], torch.ones(2))


def test_without_a_process_group_there_is_one_worker():
    values = [torch.ones(2)]
    distributed.average_(values)
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.gather("x") == ["x"]
    assert distributed.total({"a": values[0]}) == {"a": values[0]}


def _two_workers(rank: int, rendezvous: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    model, task, config, optimizer = setup()
    model.eval()  # no dropout, so that one worker with the whole batch computes the same gradients
    model.train = lambda mode=True: model
    batches = [slice_batch(tiny_batch(num_clips=4, seed=s), 2 * rank, 2 * rank + 2) for s in range(2)]
    losses = []
    train(model, task, config, optimizer, batches, on_step=lambda report: losses.append(report.loss))
    evaluation = evaluate(model, task, batches[:1], precision=Precision.choose("off", "cpu"), detailed=True)
    torch.save(
        {
            "losses": losses,
            "weights": snapshot(model),
            "metrics": evaluation.metrics.compute(),
            "clips": list(evaluation.per_clip),
            "num_clips": evaluation.num_clips,
        },
        f"{out}/{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_equal_one_with_the_whole_batch(tmp_path):
    other = mp.get_context("spawn").Process(target=_two_workers, args=(1, str(tmp_path / "rendezvous"), str(tmp_path)))
    other.start()
    _two_workers(0, str(tmp_path / "rendezvous"), str(tmp_path))  # this process is the first worker
    other.join(120)
    assert other.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first["losses"] == second["losses"]
    assert first["metrics"] == second["metrics"]
    assert first["num_clips"] == 4
    model, task, config, optimizer = setup()
    model.eval()
    model.train = lambda mode=True: model
    batches = [tiny_batch(num_clips=4, seed=s) for s in range(2)]
    losses = []
    train(model, task, config, optimizer, batches, on_step=lambda report: losses.append(report.loss))
    assert losses == pytest.approx(first["losses"], rel=1e-5)
    for name, value in trainable_parameters(model).items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(value, first["weights"][name], rtol=1e-3, atol=2e-5)
    assert first["clips"] == ["clip0000", "clip0001", "clip0002", "clip0003"]


TRAIN_WITHOUT_THE_REST = """
import sys
for name in ("ray", "mlflow", "typer", "pydantic", "decord", "av", "torchaudio", "s3fs", "pipelines", "jobs"):
    sys.modules[name] = None  # importing it raises ImportError
import torch
torch.set_num_threads(1)
from tests.unit.training.test_engine import setup, train
from tests.factories import tiny_batch
model, task, config, optimizer = setup()
losses = []
train(model, task, config, optimizer, [tiny_batch(), tiny_batch()], on_step=lambda report: losses.append(report.loss))
assert len(losses) == 2 and losses[1] != losses[0]
print("TRAINED")
"""


@pytest.mark.slow
def test_trains_without_ray_and_mlflow():
    done = subprocess.run([sys.executable, "-c", TRAIN_WITHOUT_THE_REST], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "TRAINED"


def test_fp16_on_a_gpu_scales_the_loss_and_keeps_weights_in_fp32():
    if not torch.cuda.is_available():
        if os.environ.get("STGCMA_REQUIRE_GPU") == "1":
            pytest.fail("STGCMA_REQUIRE_GPU=1, but torch sees no GPU")
        pytest.skip("no GPU")
    model, task, config, _ = setup(mixed_precision="fp16")
    precision = Precision.choose("fp16", "cuda")
    model = place_model(model, CONFIG, precision)
    optimizer, scaler = build_optimizer(model, config), precision.new_scaler()
    before, losses = snapshot(model), []
    train_one_epoch(
        model,
        task,
        [tiny_batch(seed=s) for s in range(4)],
        optimizer,
        Schedule.of(config, 4),
        config=config,
        epoch=0,
        steps_per_epoch=4,
        precision=precision,
        scaler=scaler,
        on_step=lambda report: losses.append(report.loss),
    )
    assert scaler.is_enabled()
    assert all(torch.isfinite(torch.tensor(losses)))
    assert {p.dtype for p in trainable_parameters(model).values()} == {torch.float32}
    assert any(not torch.equal(before[name], p) for name, p in trainable_parameters(model).items())
    result = evaluate(model, task, [tiny_batch(seed=9)], precision=precision, detailed=True)
    assert 0 <= result.metrics.compute()["accuracy"] <= 1
