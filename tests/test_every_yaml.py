"""All YAML files of the package load, and all recipes build on the meta device. New files are found by themselves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.runs.configfile import load_run_config, read_mapping
from jobs.tables.ablation import load_ablation
from stgcma.models.parameters import count_parameters
from stgcma.parity.parameter_counts import BACKBONE_TITLES
from stgcma.tasks import build_model, build_task
from tests.paths import ROOT

pytestmark = pytest.mark.slow

FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "jobs").rglob("*.yaml"))
RECIPES = [path for path in FILES if path.startswith("jobs/recipes/")]
ABLATIONS = [path for path in FILES if path.startswith("jobs/ablations/")]
TABLE2 = [path for path in RECIPES if Path(path).name.startswith("ave_")]
COUNTS = [
    row
    for row in json.loads((ROOT / "tests/golden/param_counts.json").read_text())
    if row["table"] == "2" and row["is_published_row"]
]


def test_all_files_are_found():
    assert len(TABLE2) == 8
    assert len(RECIPES) >= 8 + 2 + 2
    assert len(ABLATIONS) >= 6
    others = set(FILES) - set(RECIPES) - set(ABLATIONS)
    assert others == {"jobs/published.yaml"}
    assert read_mapping(ROOT / "jobs/published.yaml")


@pytest.mark.parametrize("path", RECIPES)
def test_recipe_loads_and_builds(path):
    config = load_run_config(ROOT / path)
    assert config.name == Path(path).stem or "/demo/" in path
    model = replace(config.model, pretrained="none", grounding_checkpoint=None)
    counts = count_parameters(build_model(build_task(config.task, model), device="meta"))
    assert 0 < counts.trainable < counts.total


@pytest.mark.parametrize("path", RECIPES)
def test_recipe_names_the_command_that_runs_it(path):
    header = [line for line in (ROOT / path).read_text().splitlines() if line.startswith("#")]
    assert any(re.search(rf"stgcma-jobs (train|pretrain-grounding) {re.escape(path)}\b", line) for line in header)


@pytest.mark.parametrize("path", ABLATIONS)
def test_ablation_loads(path):
    ablation = load_ablation(ROOT / path)
    assert len(ablation.rows) >= 2
    assert len({trial.fingerprint for trial in ablation.trials}) == len(ablation.trials)


@pytest.mark.parametrize("path", TABLE2)
def test_table_2_recipes_are_the_published_rows(path):
    """The parameter counts are exact, and the header has the numbers of the paper."""
    config = load_run_config(ROOT / path)
    size = config.model.adaptation.size.title()
    backbone = BACKBONE_TITLES[config.model.backbone]
    (row,) = [r for r in COUNTS if r["backbone"] == backbone and r["preset"].startswith(size)]
    model = replace(config.model, pretrained="none")
    counts = count_parameters(build_model(build_task(config.task, model), device="meta"))
    assert (counts.trainable, counts.total) == (row["measured_trainable"], row["measured_total"])
    accuracy, trained, total = published(path)
    assert (trained, total) == (row["published_trainable_M"], row["published_total_M"])
    encoder = {"clip_vit_b16": "ViT-B-16 (CLIP)", "clip_vit_l14": "ViT-L-14 (CLIP)"}
    paper = json.loads((ROOT / "tests/golden/published.json").read_text())["table2_ave_accuracy"]
    (printed,) = [
        r["accuracy"]
        for r in paper
        if r["method"] == f"STG-CMA ({size})" and r["visual_encoder"] == encoder.get(config.model.backbone, backbone)
    ]
    assert accuracy == printed


def published(path):
    """Accuracy in percent, trained and total parameters in millions, from the header of a recipe."""
    text = (ROOT / path).read_text()
    match = re.search(r"Published: ([\d.]+) % .*; ([\d.]+) M trained of ([\d.]+) M", text)
    return tuple(float(number) for number in match.groups())


@pytest.mark.parametrize("path", TABLE2)
def test_table_2_recipes_train_as_the_reference_does(path):
    """Method section 7."""
    optim = load_run_config(ROOT / path).optim
    assert (optim.epochs, optim.batch_size, optim.warmup_epochs, optim.average_epochs) == (20, 1, 2, (8, 20))
    assert (optim.learning_rate, optim.head_learning_rate, optim.gate_learning_rate) == (5e-5, 5e-6, None)
    assert (optim.min_learning_rate, optim.betas, optim.eps, optim.weight_decay) == (2e-6, (0.95, 0.999), 1e-8, 5e-7)
    assert (optim.mixed_precision, optim.grad_clip_norm, optim.eval_batch_size) == ("fp16", None, 1)
    assert (optim.protocol, optim.patience_epochs, optim.max_minutes) == ("val", None, None)
