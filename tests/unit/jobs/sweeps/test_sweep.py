"""Sweeps with a fake training: trials are run, skipped, isolated and resumed, in this process and in a pool."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobs.commands import tables
from jobs.runs.folder import RESULT, RunFolder
from jobs.sweeps.board import Board, format_seconds
from jobs.sweeps.executors import Job, execute
from jobs.sweeps.sweep import find_table, ran_otherwise, read_sweep, recorded_sweeps, run_sweep
from jobs.tables.ablation import load_ablation
from jobs.tables.trials import STATUS, TrialStatus, find_runs, read_status, trial_folder, trial_lock
from stgcma.errors import ConfigError, RunFailedError, RunLockedError, ShardMismatchError
from tests.paths import ROOT
from tests.unit.jobs import fake_training
from tests.unit.jobs.tables.test_ablation import GOOD, RECIPE

pytestmark = pytest.mark.slow


@pytest.fixture
def table(tmp_path):
    (tmp_path / "base.yaml").write_text(RECIPE)
    (tmp_path / "small.yaml").write_text(GOOD)
    return load_ablation(tmp_path / "small.yaml")


@pytest.fixture
def output(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=False)


def sweep(table, output, train=fake_training.train, **options):
    return run_sweep(table, output=str(output), tracking="none", train=train, check=fake_training.check, **options)


def states(result) -> list[str]:
    return [f"{status.row} {status.seed} {status.state}" for status in result.statuses]


def test_runs_every_trial_once(table, output):
    first = sweep(table, output)
    assert fake_training.started(output) == ["full 0", "none 0", "full 1", "none 1"]
    assert states(first) == ["full 0 done", "none 0 done", "full 1 done", "none 1 done"]
    assert first.summary == "4 trials: 4 done"
    folders = {name: RunFolder(f"{output}/{name}") for name in find_runs(str(output)).values()}
    assert {read_status(folder).attempts for folder in folders.values()} == {1}
    second = sweep(table, output)
    assert fake_training.started(output) == []
    assert second.summary == "4 trials: 4 done (4 before)"


def test_an_extended_table_runs_only_the_new_rows(table, output, tmp_path):
    sweep(table, output)
    fake_training.started(output)
    extended = GOOD.replace("seeds: [0, 1]", "seeds: [0, 1, 2]").replace("name: none", "name: renamed")
    extended += "  - {name: visual, set: {model.adaptation.branches: visual}}\n"
    (tmp_path / "small.yaml").write_text(extended)
    result = sweep(load_ablation(tmp_path / "small.yaml"), output)
    assert fake_training.started(output) == ["visual 0", "visual 1", "full 2", "renamed 2", "visual 2"]
    assert result.summary == "9 trials: 9 done (4 before)"


def test_another_table_shares_trials(table, output):
    sweep(table, output)
    fake_training.started(output)
    sweep(replace(table, name="other"), output)
    assert fake_training.started(output) == []
    assert recorded_sweeps(str(output)) == ["other", "small"]


def test_a_failure_is_isolated_reported_and_kept_until_a_retry(table, output):
    result = sweep(table, output, fake_training.train_but_fail_no_interaction)
    assert states(result) == ["full 0 done", "none 0 failed", "full 1 done", "none 1 failed"]
    assert result.statuses[1].message == "The training loss is nan at epoch 1"
    with pytest.raises(
        RunFailedError, match=r"2 of 4 trials failed. .* --retry-failed.\n  none seed 0: The training loss"
    ):
        result.raise_if_failed()
    assert "--retry-failed" in result.report.fill_command
    fake_training.started(output)
    assert sweep(table, output).count("failed") == 2
    assert fake_training.started(output) == []
    retried = sweep(table, output, retry_failed=True)
    assert fake_training.started(output) == ["none 0", "none 1"]
    assert retried.summary == "4 trials: 4 done (2 before)"
    assert read_status(RunFolder(f"{output}/{find_runs(str(output))[retried.statuses[1].fingerprint]}")).attempts == 2


def test_an_unexpected_error_keeps_its_traceback(table, output):
    def broken(job: Job) -> list[str]:
        raise ZeroDivisionError("division by zero")

    result = sweep(table, output, broken, only=("none",))
    assert "in broken" in result.statuses[0].message
    assert result.statuses[0].message.endswith("ZeroDivisionError: division by zero")


def test_an_interrupted_sweep_goes_on_and_reports_the_same(table, output, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        sweep(table, output, fake_training.interrupt_third)
    assert len(fake_training.started(output)) == 3
    resumed = sweep(table, output)
    assert fake_training.started(output) == ["full 1", "none 1"]
    assert resumed.summary == "4 trials: 4 done (2 before)"
    (tmp_path / "straight").mkdir()
    straight = sweep(table, tmp_path / "straight")
    for name in ("report.md", "report.html", "report.csv", "parameters.svg"):
        one, two = Path(resumed.folder, name), Path(straight.folder, name)
        assert one.read_bytes() == two.read_bytes(), name


def test_only_runs_the_named_rows(table, output):
    result = sweep(table, output, only=("none",))
    assert fake_training.started(output) == ["none 0", "none 1"]
    assert "--only full" in result.report.fill_command
    with pytest.raises(ConfigError, match="did you mean 'none'"):
        sweep(table, output, only=("nome",))


def test_missing_shards_are_reported_before_any_trial_starts(table, output):
    with pytest.raises(ShardMismatchError, match="run: stgcma-jobs preprocess --dataset ave"):
        run_sweep(replace(table, shards="nowhere"), output=str(output), tracking="none")
    assert find_runs(str(output)) == {}


def test_a_trial_that_runs_elsewhere_is_left_alone(table, output):
    trial = table.trials[0]
    with trial_lock(trial_folder(str(output), trial.config)) as is_ours:
        assert is_ours
        result = sweep(table, output)
    assert states(result)[0] == "full 0 stopped"
    assert result.statuses[0].message == "another process is running this trial"
    assert "full 0" not in fake_training.started(output)
    assert sweep(table, output).count("done") == 4


def test_a_trial_that_train_runs_elsewhere_is_stopped_not_failed(table, output):
    def is_locked(job):
        raise RunLockedError("Another process is training it.")

    result = sweep(table, output, train=is_locked, only=("full",))
    assert {status.state for status in result.statuses} == {"stopped"}
    assert sweep(table, output).count("done") == 4


def test_one_driver_at_a_time(table, output):
    with trial_lock(RunFolder(f"{output}/sweeps/small")), pytest.raises(ConfigError, match="is already running in"):
        sweep(table, output)


def test_tables_are_found_by_file_or_by_name(table, output, tmp_path):
    with pytest.raises(ConfigError, match="has no sweeps"):
        find_table(None, str(output))
    sweep(table, output)
    assert find_table(None, str(output)) == find_table("small", str(output)) == table
    assert find_table(str(tmp_path / "small.yaml"), str(output)) == table
    assert find_table(str(tmp_path / "small.yaml"), str(output), ["optim.epochs=9"]) != table
    with pytest.raises(ConfigError, match=r"has no sweep 'smal'. Its sweeps: small"):
        read_sweep(str(output), "smal")
    with pytest.raises(ConfigError, match="--set needs an ablation file"):
        find_table("small", str(output), ["optim.epochs=9"])


def test_a_report_of_a_file_mentions_the_other_settings_of_its_sweep(table, output, tmp_path, capsys):
    file = tmp_path / "small.yaml"
    assert ran_otherwise(load_ablation(file), str(output)) is None, "no sweep ran"
    sweep(load_ablation(file, ["optim.epochs=9"], shards="elsewhere"), output)
    assert ran_otherwise(find_table("small", str(output)), str(output)) is None
    tables.report(str(file), runs=str(output), format_name="md", output=None, overrides=None)
    printed = capsys.readouterr()
    assert f"ran with --set optim.epochs=9. To see it, run: stgcma-jobs report small --runs {output}." in printed.err
    assert f"`stgcma-jobs sweep {file} --shards elsewhere --output {output}`" in printed.out
    tables.report("small", runs=str(output), format_name="md", output=None, overrides=None)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "Incomplete" not in printed.out


# -- a pool of processes ---------------------------------------------------------------------------------------------


def test_pool_survives_a_worker_that_dies(table, output):
    result = sweep(table, output, fake_training.die_on_seed_1, concurrency=2)
    assert states(result) == ["full 0 done", "none 0 done", "full 1 failed", "none 1 failed"]
    assert result.statuses[2].message == (
        "The worker process ended with signal SIGKILL. Memory may have run out: lower --concurrency."
    )
    assert sorted(fake_training.started(output)) == ["full 0", "full 1", "none 0", "none 1"]
    assert sweep(table, output, retry_failed=True, concurrency=2).count("done") == 4


DRIVER = """
import sys
from jobs.tables.ablation import load_ablation
from jobs.sweeps.sweep import run_sweep
from tests.unit.jobs import fake_training
if __name__ == "__main__":
    run_sweep(load_ablation(sys.argv[1]), output=sys.argv[2], tracking="none", concurrency=2,
              train=fake_training.sleep_forever, check=fake_training.check)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_pool_workers_end_with_their_driver(table, output, tmp_path, how):
    (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), table.path, str(output)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )
    pids = wait_for(lambda: p if len(p := list(output.glob("pid-*"))) == 2 else None)
    driver.send_signal(how)
    driver.wait(120)
    workers = [int(path.name.removeprefix("pid-")) for path in pids]
    wait_for(lambda: not any(alive(pid) for pid in workers))
    wanted = "running" if how == signal.SIGKILL else "stopped"
    folders = [RunFolder(f"{output}/{path.parent.name}") for path in output.glob(f"*/{STATUS}")]
    assert [read_status(folder).state for folder in folders] == [wanted] * 2


def wait_for(condition, seconds: float = 180):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("timed out")


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- the progress display --------------------------------------------------------------------------------------------


def board_of(table, output, console):
    jobs = [
        Job(
            config=t.config,
            row=t.row,
            seed=t.seed,
            output=str(output),
            num_workers=0,
            device="cpu",
            tracking="none",
            experiment="small",
        )
        for t in table.trials
    ]
    waiting = [TrialStatus(state="waiting", row=t.row, seed=t.seed, fingerprint=t.fingerprint) for t in table.trials]
    return jobs, Board(table.title, jobs, waiting, console=console)


def printed(board, console) -> str:
    console.print(board.render())
    return console.file.getvalue()


def test_board_shows_state_epoch_metric_and_failure(table, output):
    console = quiet()
    jobs, board = board_of(table, output, console)
    for job in jobs[:3]:
        board.started(job)
    board.finished(execute(jobs[0], fake_training.train))
    board.finished(execute(jobs[1], fake_training.train_but_fail_no_interaction))
    fake_training.write_run(jobs[2], is_complete=False)
    text = printed(board, console)
    lines = text.splitlines()
    assert re.search(r"\[1/4\]  full seed 0: done  best 0\.6500  \d+ s", text)
    assert "[2/4]  none seed 0: failed  The training loss is nan at epoch 1" in text
    assert any("2.0/2" in line and "0.6500" in line and "done" in line for line in lines)
    assert any("failed: The training loss is nan" in line for line in lines)
    assert any("running" in line and "2.0/2" in line for line in lines)
    assert "1 done, 1 running, 1 failed, 1 waiting" in text


def test_board_gives_running_trials_the_lines_of_a_low_terminal(table, output):
    console = Console(file=io.StringIO(), width=100, height=11, force_terminal=True, color_system=None)
    jobs, board = board_of(table, output, console)
    board.started(jobs[3])
    text = printed(board, console)
    assert "running" in text
    assert "... and 2 waiting" in text


def test_seconds():
    assert (format_seconds(5), format_seconds(75), format_seconds(4000)) == ("0:05", "1:15", "1:06:40")


def test_result_decides_what_is_done(table, output):
    """Trials with a result are done, even if a killed driver left the status "running"."""
    sweep(table, output)
    fake_training.started(output)
    folders = [RunFolder(f"{output}/{name}") for name in find_runs(str(output)).values()]
    for folder in folders:
        folder.write_json(STATUS, {**folder.read_json(STATUS), "state": "running"})
    folders[0].delete(RESULT)
    assert sweep(table, output).summary == "4 trials: 4 done (3 before)"
    assert len(fake_training.started(output)) == 1
