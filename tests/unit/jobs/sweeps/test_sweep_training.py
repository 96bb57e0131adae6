"""Sweeps with real training: kill and resume, and the parent run with its children in MLflow."""

from __future__ import annotations

import json
import multiprocessing.process
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.runs.folder import LAST, RESULT, TRACKING, RunFolder
from jobs.runs.tracking import TABLE_VIEW, open_client
from jobs.sweeps.sweep import RECORD, run_sweep, sweep_folder
from jobs.sweeps.tracking import NOTE, PARENT, table_view
from jobs.tables.ablation import load_ablation
from jobs.tables.trials import find_runs
from stgcma.errors import ConfigError
from tests.paths import ROOT
from tests.unit.jobs.helpers import tiny_shards

pytestmark = pytest.mark.slow

RECIPE = """
name: tiny
task: ave
model: {backbone: clip_vit_demo, pretrained: none}
data: {dataset: ave}
optim: {epochs: 3, batch_size: 1, learning_rate: 1e-3, warmup_epochs: 1, checkpoint_every_steps: 1}
"""
TABLE = """
name: tiny-table
base: tiny.yaml
seeds: [0]
compare_with: full
runs:
  - {name: full, paper: {test/accuracy: 83.3}}
  - {name: none, set: {model.adaptation.fusion: none}}
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def table(tmp_path, shards):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "table.yaml").write_text(TABLE)
    return load_ablation(tmp_path / "table.yaml", shards=shards)


def quick(tmp_path, shards):
    """The same table with one epoch."""
    return load_ablation(tmp_path / "table.yaml", ["optim.epochs=1"], shards=shards)


def test_killed_in_the_middle_and_resumed_gives_the_same_report(table, tmp_path, shards):
    """After a SIGKILL during the first trial, the next start continues it, and the report has the same bytes."""
    killed, whole = str(tmp_path / "killed"), str(tmp_path / "whole")
    command = [sys.executable, "-m", "jobs.cli", "sweep", table.path, "--shards", shards, "--output", killed]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--tracking", "none", "--device", "cpu"], cwd=ROOT, env=environment)
    first = RunFolder(f"{killed}/{table.trials[0].config.run_name}")
    deadline = time.monotonic() + 300
    while not first.exists(LAST):
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint after five minutes"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not first.exists(RESULT)

    options = {"tracking": "none", "device": "cpu"}
    resumed = run_sweep(table, output=killed, **options)
    straight = run_sweep(table, output=whole, **options)
    assert resumed.summary == straight.summary == "2 trials: 2 done"
    assert len(first.read_json("run.json")["sessions"]) == 2
    for name in ("report.md", "report.html", "report.csv", "learning_curves.svg"):
        assert Path(resumed.folder, name).read_bytes() == Path(straight.folder, name).read_bytes(), name


def test_trials_of_a_serial_sweep_share_this_process(table, tmp_path, shards, monkeypatch):
    """No trial starts a process, so only the first trial pays for the imports."""

    def refuse(*arguments, **options):
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    result = run_sweep(quick(tmp_path, shards), output=str(tmp_path / "runs"), tracking="none", device="cpu")
    assert result.summary == "2 trials: 2 done"


# -- MLflow ----------------------------------------------------------------------------------------------------------


def runs_of(store: str, table):
    """(parent runs, children by row) of the sweep's experiment."""
    client = open_client(store)
    experiment = client.get_experiment_by_name(table.name)
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "stgcma.sweep_id" in run.data.tags]
    children = {run.data.tags["stgcma.row"]: run for run in runs if "stgcma.row" in run.data.tags}
    assert len(runs) == len(parents) + len(children)
    return parents, children


def test_mlflow_has_one_parent_and_a_child_per_trial_however_often_it_starts(table, tmp_path, shards, store):
    table, output = quick(tmp_path, shards), str(tmp_path / "runs")
    first = run_sweep(table, output=output, tracking=store, device="cpu", only=("full",))
    assert first.warnings == ()
    (parent,), children = runs_of(store, table)
    recorded = RunFolder(sweep_folder(output, table.name)).read_json(RECORD)
    assert parent.data.tags["stgcma.sweep_id"] == recorded["sweep_id"]
    assert (parent.info.run_name, parent.info.status) == ("sweep tiny-table", "FINISHED")
    assert "**Incomplete.**" in parent.data.tags[NOTE]
    assert children["full"].data.metrics["paper/test/accuracy"] == pytest.approx(0.833)
    assert children["full"].data.metrics["sweep/row"] == 1

    run_sweep(table, output=output, tracking=store, device="cpu")
    run_sweep(table, output=output, tracking=store, device="cpu")
    (again,), children = runs_of(store, table)
    assert again.info.run_id == parent.info.run_id
    assert sorted(children) == ["full", "none"]
    assert {child.data.tags[PARENT] for child in children.values()} == {parent.info.run_id}
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    assert "**Incomplete.**" not in again.data.tags[NOTE]
    assert "paper/test/accuracy" not in children["none"].data.metrics


def test_the_saved_view_is_the_table(table, tmp_path, shards, store):
    run_sweep(quick(tmp_path, shards), output=str(tmp_path / "runs"), tracking=store, device="cpu", only=("full",))
    view = json.loads(open_client(store).get_experiment_by_name("tiny-table").tags[TABLE_VIEW])
    assert json.dumps(view) == json.dumps(json.loads(table_view("tiny-table", ("test/accuracy",))))
    state = json.loads(view["state"])
    assert state["selectedColumns"][:2] == ["metrics.`test/accuracy`", "metrics.`paper/test/accuracy`"]
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`sweep/row`", True)


def test_runs_that_a_dead_server_missed_are_sent_and_attached_later(table, tmp_path, shards, store):
    table, output = quick(tmp_path, shards), str(tmp_path / "runs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{probe.getsockname()[1]}"
    result = run_sweep(table, output=output, tracking=nobody, device="cpu")
    assert result.count("done") == 2
    assert any("cannot be used" in warning for warning in result.warnings)
    late = run_sweep(table, output=output, tracking=store, device="cpu")
    assert late.summary == "2 trials: 2 done (2 before)"
    (parent,), children = runs_of(store, table)
    assert {child.data.tags[PARENT] for child in children.values()} == {parent.info.run_id}
    assert children["full"].data.metrics["test/accuracy"] == pytest.approx(
        late.report.rows[0].trials[0].metrics["test/accuracy"]
    )


def test_a_run_of_another_experiment_keeps_its_place(table, tmp_path, shards, store):
    """A trial that ``train`` ran before is not trained again, and its MLflow run stays in its experiment."""
    table, output = quick(tmp_path, shards), str(tmp_path / "runs")
    run_sweep(table, output=output, tracking=store, device="cpu", only=("full",))
    folder = RunFolder(f"{output}/{next(iter(find_runs(output).values()))}")
    facts = folder.read_json("run.json")
    folder.write_json("run.json", {**facts, "experiment": "another"})
    known = folder.read_json(TRACKING)
    result = run_sweep(table, output=output, tracking=store, device="cpu", only=("full",))
    assert result.warnings == ()
    assert folder.read_json(TRACKING) == known


def test_a_table_is_not_continued_on_other_shards(table, tmp_path, shards):
    options = {"output": str(tmp_path / "runs"), "tracking": "none", "device": "cpu"}
    first = run_sweep(quick(tmp_path, shards), only=("full",), **options)
    assert first.count("done") == 1
    other = tiny_shards(tmp_path / "other", splits={"train": 8, "val": 3, "test": 3})
    with pytest.raises(ConfigError, match=r"was started on shards with digest .* or --output"):
        run_sweep(quick(tmp_path, other), **options)
