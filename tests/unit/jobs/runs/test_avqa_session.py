"""Question-answering runs: training, resuming, evaluation by type, grounding pretraining and asking."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.runs.answering import ask
from jobs.runs.config import RunConfig
from jobs.runs.configfile import build
from jobs.runs.evaluation import evaluate_run, read_per_clip
from jobs.runs.folder import open_run
from jobs.runs.grounding import pretrain_grounding
from jobs.runs.plan import resolve
from jobs.runs.session import train_run
from pipelines.synthetic.mp4 import write_mp4
from stgcma.errors import CheckpointError, ClipDecodeError, ConfigError, RunFailedError
from stgcma.tasks import build_model, build_task
from stgcma.training import checkpoint
from tests.factories import tiny_questions, write_question_shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    write_question_shards(root, num_videos=5, num_segments=10)
    return str(root)


def config_of(shards, **fields):
    mapping = {
        "name": "questions",
        "task": "avqa",
        "model": {
            "backbone": "swin_demo",
            "pretrained": "none",
            "avqa_variant": "b_lavish",
            "answer_head": {"dim": 16, "match_dims": [16, 8, 8], "num_words": 6, "num_answers": 3},
        },
        "data": {"dataset": "music-avqa", "shards": shards, "augment": {"enabled": False}, "negatives": "batch"},
        "optim": {
            "epochs": 1,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "warmup_epochs": 0,
            "eval_batch_size": 5,
            "protocol": "paper",
        },
    }
    return replace(build(RunConfig, mapping, "test"), **fields)


def weights_of(result):
    tensors, _ = checkpoint.decode(Path(result.run, "checkpoints", "last.safetensors").read_bytes(), "last")
    return {name: value for name, value in tensors.items() if name.startswith("model/")}


def test_a_run_reports_types_and_groups(shards, tmp_path):
    config = config_of(shards)
    plan = resolve(config)
    assert plan.num_clips == {"train": 5, "test": 5}
    assert plan.steps_per_epoch == 2
    result = train_run(config, output=str(tmp_path), tracking="none")
    assert {"test/overall", "test/audio", "test/visual", "test/audio_visual"} <= result.metrics.keys()
    detailed = json.loads(Path(result.run, "evaluation", "test", "metrics.json").read_text())["metrics"]
    assert {"audio/counting", "visual/location", "audio_visual/temporal", "unknown_answers"} <= detailed.keys()
    questions, scores = read_per_clip(open_run(result.run), "test")
    assert len(questions) == len(tiny_questions(5, "test"))
    assert scores["correct"].double().mean().item() == pytest.approx(result.metrics["test/overall"])


def test_an_interrupted_run_ends_with_the_same_weights(shards, tmp_path, monkeypatch):
    config = config_of(shards)
    config = replace(config, optim=replace(config.optim, epochs=2, checkpoint_every_steps=1))
    whole = train_run(config, output=str(tmp_path / "whole"), tracking="none")
    encoded = []

    def fail_on_the_third(*arguments):
        encoded.append(1)
        if len(encoded) == 3:
            raise RunFailedError("power cut")
        return checkpoint.encode_run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("jobs.runs.training_loop.encode_run", fail_on_the_third)
        with pytest.raises(RunFailedError):
            train_run(config, output=str(tmp_path / "cut"), tracking="none")
    resumed = train_run(config, output=str(tmp_path / "cut"), tracking="none")
    expected = weights_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(resumed).items())
    assert resumed.metrics == whole.metrics


def test_grounding_layers_are_trained_saved_and_loaded(shards, tmp_path):
    result, file = pretrain_grounding(config_of(shards), output=str(tmp_path), tracking="none")
    assert result.run_name.startswith("questions-grounding-")
    assert 0 <= result.metrics["test/match_accuracy"] <= 1
    saved = load_file(file)
    assert "visual_projection.weight" in saved
    assert "match_layers.3.bias" in saved
    model_config = replace(config_of(shards).model, grounding_checkpoint=file)
    grounding = build_model(build_task("avqa", model_config)).head.grounding.state_dict()
    assert grounding.keys() == saved.keys()
    assert all(torch.equal(grounding[name], value) for name, value in saved.items())
    again, same_file = pretrain_grounding(config_of(shards), output=str(tmp_path), tracking="none")
    assert again.was_complete
    assert same_file == file


def test_a_run_does_not_need_its_grounding_file_after_training(shards, tmp_path):
    config = config_of(shards)
    head = build_model(build_task("avqa", config.model)).head
    file = tmp_path / "grounding.safetensors"
    save_file(head.grounding.state_dict(), file)
    result = train_run(
        replace(config, model=replace(config.model, grounding_checkpoint=str(file))),
        output=str(tmp_path),
        tracking="none",
    )
    file.unlink()
    assert evaluate_run(result.run, split="test").metrics["overall"] == pytest.approx(result.metrics["test/overall"])
    with pytest.raises(CheckpointError, match="No grounding checkpoint"):
        train_run(
            replace(config, model=replace(config.model, grounding_checkpoint=str(file))), output=str(tmp_path / "again")
        )


def test_a_run_answers_questions_about_a_video(shards, tmp_path):
    result = train_run(config_of(shards), output=str(tmp_path), tracking="none")
    rng = np.random.default_rng(0)
    video = tmp_path / "my video.mp4"
    write_mp4(video, rng.integers(0, 255, (10, 64, 64, 3), dtype=np.uint8), rng.normal(0, 900, 32000).astype(np.int16))
    asked = ["Is a video old?", "Is a video new"]
    found = ask(result.run, video, asked)
    assert [answer.question for answer in found] == asked
    for answer in found:
        names, probabilities = zip(*answer.answers, strict=True)
        assert set(names) == {"yes", "no", "two"}
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)
        assert list(probabilities) == sorted(probabilities, reverse=True)
    with pytest.raises(ConfigError, match=r"'vidoe' \(did you mean video\?\)"):
        ask(result.run, video, ["Is a vidoe old?"])
    with pytest.raises(ClipDecodeError, match="media file missing"):
        ask(result.run, tmp_path / "none.mp4", asked)


def test_only_question_answering_has_grounding_layers(shards):
    with pytest.raises(ConfigError, match="task grounding or of a task that answers questions, got task avs"):
        pretrain_grounding(config_of(shards, task="avs"))
