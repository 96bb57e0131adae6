"""Checkpoints: the whole state is restored, nothing is unpickled, and wrong files are rejected."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from stgcma.config import ModelConfig, OptimConfig
from stgcma.errors import CheckpointError
from stgcma.models.adaptations import STGCMA
from stgcma.models.parameters import trainable_parameters, trainable_state_dict
from stgcma.tasks import build_model, build_task
from stgcma.tensor_file import decode_tensors, encode_tensors
from stgcma.training.checkpoint import METADATA_KEY, LoopState, decode, encode_run, load_run
from stgcma.training.engine import Precision, WeightAverage, train_one_epoch
from stgcma.training.optim import Schedule, build_optimizer
from tests.factories import tiny_batch

STATE = LoopState(fingerprint="abc", data_digest="def", epoch=1, step=2, best_metric=0.25, best_epoch=1, loss_sum=3.125)
OPTIM = OptimConfig(epochs=2, batch_size=2, learning_rate=1e-3, warmup_epochs=0)


def trained(seed=0, steps=2, **adaptation):
    torch.manual_seed(seed)
    config = ModelConfig(backbone="clip_vit_demo", pretrained="none", adaptation=STGCMA(**adaptation))
    task = build_task("ave", config)
    model = build_model(task)
    optimizer = build_optimizer(model, OPTIM)
    precision = Precision.choose("off", "cpu")
    batches = [tiny_batch(seed=s) for s in range(steps)]
    train_one_epoch(
        model,
        task,
        batches,
        optimizer,
        Schedule.of(OPTIM, 4),
        config=OPTIM,
        epoch=0,
        steps_per_epoch=4,
        precision=precision,
        scaler=precision.new_scaler(),
    )
    average = WeightAverage()
    average.add(trainable_state_dict(model))
    return model, optimizer, average


@pytest.fixture(scope="module")
def run():
    return trained()


def test_the_whole_state_is_restored(run):
    model, optimizer, average = run
    tensors, state = decode(encode_run(*run, replace(STATE, average_count=1)), "here")
    assert state == replace(STATE, average_count=1)
    other, fresh, mean = trained(seed=1, steps=0)
    mean.sums.clear()
    load_run(other, fresh, mean, tensors, state)
    for name, value in trainable_state_dict(model).items():
        assert torch.equal(trainable_state_dict(other)[name], value), name
        assert torch.equal(mean.sums[name], average.sums[name]), name
    for name, parameter in trainable_parameters(model).items():
        loaded = fresh.state[trainable_parameters(other)[name]]
        assert set(loaded) == set(optimizer.state[parameter])
        for field, value in optimizer.state[parameter].items():
            assert torch.equal(loaded[field], value), (name, field)
    assert mean.count == 1


def test_loaded_state_does_not_share_memory_with_the_file(run):
    """Adam updates its moments in place, which must not change the decoded tensors."""
    tensors, state = decode(encode_run(*run, STATE), "here")
    other, fresh, mean = trained(seed=1, steps=0)
    load_run(other, fresh, mean, tensors, state)
    key = next(name for name in tensors if name.startswith("optimizer/exp_avg/"))
    before = tensors[key].clone()
    parameter = trainable_parameters(other)[key.removeprefix("optimizer/exp_avg/")]
    fresh.state[parameter]["exp_avg"].add_(1)
    assert torch.equal(tensors[key], before)


def test_the_loop_state_is_restored_to_the_last_bit(run):
    state = replace(STATE, best_metric=1 / 3, loss_sum=0.1 + 0.2, scaler={"scale": 65536.0, "_growth_tracker": 3})
    assert decode(encode_run(*run, state), "here")[1] == state


@pytest.mark.parametrize("keep", [0, 5, 2000, -1])
def test_truncated_files_are_rejected(run, keep):
    data = encode_run(*run, STATE)
    with pytest.raises(CheckpointError, match=r"last.safetensors is not a complete safetensors .* Restore a copy"):
        decode(data[:keep], "last.safetensors")


def test_a_pickle_is_rejected_and_not_loaded():
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        decode(pickle.dumps(Bomb()), "received.pt")


def test_files_of_other_programs_and_versions_are_rejected(run):
    foreign = save({"weight": torch.ones(2)}, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"other\.safetensors carries no sha256 .*stgcma did not write it"):
        decode(foreign, "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors is not a checkpoint of a run"):
        decode(encode_tensors({"weight": torch.ones(2)}, {}), "other.safetensors")
    tensors, metadata = decode_tensors(encode_run(*run, STATE), "here")
    future = {METADATA_KEY: metadata[METADATA_KEY].replace('"format_version": 1', '"format_version": 9')}
    assert future != metadata
    with pytest.raises(CheckpointError, match="has checkpoint format 9, but this release reads 1"):
        decode(encode_tensors(tensors, future), "new.safetensors")


def test_a_checkpoint_of_another_model_names_what_differs(run):
    tensors, state = decode(encode_run(*run, STATE), "here")
    smaller, optimizer, average = trained(steps=0, size="tiny")
    with pytest.raises(CheckpointError, match=r"of another model: .* of another shape .*Use the run's own config.yaml"):
        load_run(smaller, optimizer, average, tensors, state)
    fewer, optimizer, average = trained(steps=0, global_stage="frozen")
    with pytest.raises(CheckpointError, match=r"of another model: 0 tensors missing .*, \d+ unknown"):
        load_run(fewer, optimizer, average, tensors, state)


def test_optimizer_state_that_fits_no_parameter_is_rejected(run):
    model, optimizer, average = run
    tensors, state = decode(encode_run(*run, STATE), "here")
    key = next(name for name in tensors if name.startswith("optimizer/exp_avg_sq/"))
    tensors[key] = torch.zeros(3, 3)
    with pytest.raises(CheckpointError, match=r"optimiser state .* which fits no trained parameter"):
        load_run(model, optimizer, average, tensors, state)
