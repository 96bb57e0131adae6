"""The command line itself: quick help, exit codes, messages."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from jobs import cli
from stgcma.errors import ConfigError, ParityError, RunFailedError

HEAVY = ("torch", "ray", "mlflow", "numpy", "pyarrow", "timm", "open_clip", "pandas")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sweep", "--help"]])
def test_help_imports_nothing_heavy_and_is_quick(arguments):
    code = (
        "import sys\n"
        "from jobs.cli import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('HEAVY', sorted(set(sys.modules) & set({HEAVY!r})))\n"
    )
    fastest = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        fastest = min(fastest, time.perf_counter() - started)
        if fastest < 0.5:
            break
    assert "Usage: stgcma-jobs" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert fastest < 1.5  # 0.25 s on an idle machine; a loaded one gets room


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert not end.value.code
    assert cli.COMMANDS[command].__doc__.strip().splitlines()[0].split()[0] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("needed x, got y"), 2), (RunFailedError("loss is nan"), 1), (ParityError("differs"), 1)],
)
def test_user_errors_print_the_message_alone(monkeypatch, capsys, error, code):
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


def test_a_missing_recipe_costs_no_heavy_import(tmp_path):
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
