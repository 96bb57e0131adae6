"""Segmentation runs: training, evaluation with a baseline run, and pictures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from jobs.runs.config import RunConfig
from jobs.runs.configfile import build
from jobs.runs.evaluation import evaluate_run
from jobs.runs.folder import open_run
from jobs.runs.session import train_run
from jobs.runs.tracking import default_tracking_uri, open_client, sync_known
from stgcma.errors import ConfigError
from tests.factories import tiny_metadata, write_shards
from tests.unit.jobs.helpers import tiny_config, tiny_shards

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    metadata = tiny_metadata("masks", dataset="avs-s4", num_segments=5, fbanks=("demo",), waveform=False)
    write_shards(root, metadata=metadata, height=64, width=64)
    return str(root)


def config_of(shards, name="masks", **adaptation):
    mapping = {
        "name": name,
        "task": "avs",
        "model": {
            "backbone": "swin_demo",
            "pretrained": "none",
            "adaptation": adaptation,
            "mask_decoder": {"channels": 8, "scale_dims": [8, 8, 8], "audio_dim": 8, "head_dims": [8, 8]},
        },
        "data": {"dataset": "avs-s4", "shards": shards, "augment": {"enabled": False}},
        "optim": {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3, "warmup_epochs": 0, "eval_batch_size": 2},
    }
    return build(RunConfig, mapping, "test")


PLAIN = {"method": "none"}


@pytest.fixture(scope="module")
def runs(shards, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("runs"))
    adapted = train_run(config_of(shards), output=output, tracking="none")
    plain = train_run(config_of(shards, "plain", **PLAIN), output=output, tracking="none")
    return adapted, plain


def test_training_ends_with_masks_scores_and_pictures(runs):
    adapted, _ = runs
    assert 0 <= adapted.metrics["test/miou"] <= 1
    assert 0 <= adapted.metrics["test/fscore"] <= 1
    for run in runs:
        folder = f"{run.run}/evaluation/test"
        for name in ("masks_best.png", "masks_worst.png"):
            Image.open(f"{folder}/{name}").verify()
        values = json.loads(Path(folder, "metrics.json").read_text())
        assert set(values["classes"]) <= {"class 0", "class 1", "class 2"}
        assert values["metrics"]["miou"] == pytest.approx(run.metrics["test/miou"])


def test_evaluate_draws_the_baseline_below(runs):
    adapted, plain = runs
    path = f"{adapted.run}/evaluation/test/masks_best.png"
    before = Image.open(path).height
    result = evaluate_run(adapted.run, baseline=plain.run, device="cpu")
    assert result.metrics["miou"] == pytest.approx(adapted.metrics["test/miou"], abs=1e-6)
    assert "evaluation/test/masks_best.png" in result.files
    assert Image.open(path).height > before


def test_baseline_of_another_task_is_refused(runs, tmp_path):
    events = tiny_config(tiny_shards(tmp_path / "ave"))
    other = train_run(replace(events, optim=replace(events.optim, epochs=1)), output=str(tmp_path), tracking="none")
    with pytest.raises(
        ConfigError, match=r"--baseline needs a run of a task with the same pictures, got .* of task 'ave'"
    ):
        evaluate_run(runs[0].run, baseline=other.run, device="cpu")
    with pytest.raises(ConfigError, match="--baseline needs a task whose evaluation draws clips; task 'ave' does not"):
        evaluate_run(other.run, baseline=runs[0].run, device="cpu")


def test_pictures_of_a_later_evaluation_reach_mlflow(shards, tmp_path):
    run = train_run(config_of(shards, "tracked"), output=str(tmp_path))
    evaluate_run(run.run, split="val", device="cpu")
    assert sync_known(open_run(run.run)) == []
    client = open_client(default_tracking_uri(str(tmp_path)))
    (experiment,) = (e for e in client.search_experiments() if e.name != "Default")
    (tracked,) = client.search_runs([experiment.experiment_id])
    names = {file.path for file in client.list_artifacts(tracked.info.run_id, "evaluation/val")}
    assert {"evaluation/val/masks_best.png", "evaluation/val/masks_worst.png"} <= names
