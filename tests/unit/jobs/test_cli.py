"""The command line: quick help, exit codes and messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from subprocess import PIPE

import pytest
from typer.main import get_command

from jobs import cli
from pipelines.options import help_text, options_of
from stgcma.errors import ConfigError, ParityError, RunFailedError
from tests.paths import ROOT

HEAVY = ("torch", "ray", "mlflow", "numpy", "pyarrow", "timm", "open_clip", "pandas", "av", "matplotlib")


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help_imports_nothing_heavy(command):
    arguments = [*([command] if command else []), "--help"]
    code = (
        "import sys\n"
        "from jobs.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('HEAVY', sorted(set(sys.modules) & set({HEAVY!r})))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: stgcma-jobs" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_help_has_the_summary_of_a_command_and_a_text_for_every_parameter(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert not end.value.code
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(cli.COMMANDS[command].__doc__.split()) in shown
    (parsed,) = (made for name, made in get_command(cli.app).commands.items() if name == command)
    for parameter in parsed.params:
        text = getattr(parameter, "help", None)
        assert text, f"{command}: {parameter.name} has no help"
        assert " ".join(text.split()) in shown
    for dataset, record in getattr(parsed, "records", dict)().items():
        for name, declared in options_of(record).items():
            assert f"--{name.replace('_', '-')}" in shown, f"{command}: {name} of {dataset} is not shown"
            assert " ".join(help_text(declared).split()) in shown


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("needed x, got y"), 2), (RunFailedError("loss is nan"), 1), (ParityError("differs"), 1)],
)
def test_user_errors_print_only_the_message(monkeypatch, capsys, error, code):
    def fail(**_):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == code
    assert capsys.readouterr().err == f"{type(error).__name__}: {error}\n"


def test_unknown_errors_exit_1_and_point_to_debug(monkeypatch, capsys):
    def fail(**_):
        raise KeyError("oops")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 1
    assert "--debug shows the traceback" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["--debug"])
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_usage_errors_exit_2(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["train"])
    assert end.value.code == 2
    assert "RECIPE" in capsys.readouterr().err


@pytest.mark.slow
def test_a_missing_recipe_is_found_out_without_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "jobs.cli", "train", str(tmp_path / "none.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "none.yaml does not exist" in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.endswith("| torch")]


def test_dry_run_counts_and_checks_without_training(tmp_path, capsys):
    from jobs.runs.configfile import dump_run_config
    from tests.unit.jobs.helpers import tiny_config, tiny_shards

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(dump_run_config(tiny_config("elsewhere")))
    shards = tiny_shards(tmp_path / "shards")
    cli.app(["train", str(recipe), "--shards", shards, "--dry-run", "--json"], standalone_mode=False)
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps_per_epoch"] == 3
    assert plan["num_clips"] == {"train": 6, "val": 3, "test": 3}
    assert plan["parameters"]["trainable"] == sum(
        number for role, number in plan["parameters"]["by_role"].items() if not role.startswith("frozen_")
    )
    assert not list(tmp_path.glob("**/config.yaml"))


TERMINATED = """
import sys, time
from jobs import cli
from jobs.preparation import preprocessing

def run(config, **options):
    print("started", flush=True)
    time.sleep(600)

preprocessing.run = run
cli.main(["preprocess", "--dataset", "ave"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_ends_a_command_like_ctrl_c(how: signal.Signals):
    process = subprocess.Popen([sys.executable, "-c", TERMINATED], stdout=PIPE, stderr=PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(how)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert message == "Interrupted. Finished shards are kept; run the same command to make the others.\n"
