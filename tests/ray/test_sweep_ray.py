"""A sweep whose trials have Ray Train workers: one Ray session, isolated failures, nothing to do on a second start."""

from __future__ import annotations

import pytest

from jobs.runs.folder import RunFolder
from jobs.runs.workers import start_ray
from jobs.sweeps.sweep import run_sweep
from jobs.tables.ablation import load_ablation
from jobs.tables.trials import find_runs
from tests.unit.jobs.helpers import tiny_shards

pytestmark = pytest.mark.ray

RECIPE = """
name: tiny
task: ave
model: {backbone: clip_vit_demo, pretrained: none}
data: {dataset: ave}
optim: {epochs: 1, batch_size: 2, learning_rate: 1e-3, warmup_epochs: 0}
"""
TABLE = """
name: ray-table
base: tiny.yaml
seeds: [0]
compare_with: full
runs:
  - {name: full}
  - {name: broken, set: {model.num_classes: 5}}
  - {name: none, set: {model.adaptation.fusion: none}}
"""


@pytest.fixture(scope="module")
def ray():
    import ray

    start_ray(num_workers=1)
    yield ray
    ray.shutdown()


def test_trials_run_as_ray_tasks(ray, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "table.yaml").write_text(TABLE)
    table = load_ablation(tmp_path / "table.yaml", shards=tiny_shards(tmp_path / "shards"))
    output = str(tmp_path / "runs")
    options = {"output": output, "num_workers": 1, "tracking": "none", "device": "cpu"}
    result = run_sweep(table, concurrency=2, **options)
    assert [status.state for status in result.statuses] == ["done", "failed", "done"]
    assert "model.num_classes" in result.statuses[1].message
    folder = RunFolder(f"{output}/{find_runs(output)[table.trials[0].fingerprint]}")
    assert folder.read_json("run.json")["sessions"][0]["num_workers"] == 1
    assert ray.is_initialized()  # the session belongs to the caller and stays open
    again = run_sweep(table, **options)
    assert again.summary == "3 trials: 2 done (2 before), 1 failed"
