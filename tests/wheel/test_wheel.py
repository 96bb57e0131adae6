"""The wheel is complete, works from any folder, and its library needs few packages."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.media import write_ave
from tests.paths import ROOT

LIBRARY = ("torch", "timm", "open_clip_torch", "safetensors", "pyarrow", "torchvision")
"""Packages that the library needs; torchvision decodes JPEG."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as documented from a copy of the packages, with the build tools of this environment."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("stgcma", "pipelines", "jobs"):
        for file in (ROOT / name).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                copy = source / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    for name in ("pyproject.toml", "README.md"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", target]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True, timeout=300)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def requirements(names: tuple[str, ...]) -> set[str]:
    """The given distributions and all that they need on this machine."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def link_packages(names: tuple[str, ...], folder: Path) -> None:
    """Make links in ``folder`` to the top-level files of the given distributions and of all that they need."""
    for name in requirements(names):
        for file in importlib.metadata.files(name) or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__", "bin") and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(importlib.metadata.distribution(name).locate_file(top))))


@pytest.fixture(scope="module")
def library_folder(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel, the packages of ``LIBRARY`` and all that they need, and nothing else."""
    folder = tmp_path_factory.mktemp("library")
    for name in ("stgcma", "pipelines", "jobs"):
        (folder / name).symlink_to(installed / name)
    link_packages(LIBRARY, folder)
    return folder


def run(folder: Path, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with only the standard library and one folder on its path."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-S", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_wheel_holds_every_shipped_file(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    shipped = [
        *(ROOT / "jobs").rglob("*.yaml"),
        *(ROOT / "stgcma" / "weights").glob("*"),
        ROOT / "stgcma" / "py.typed",
        *(file for package in ("stgcma", "pipelines", "jobs") for file in (ROOT / package).rglob("*.py")),
    ]
    missing = [str(file.relative_to(ROOT)) for file in shipped if file.relative_to(ROOT).as_posix() not in names]
    assert not missing
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "infra/"))]


def test_commands_find_recipes_and_weights_from_any_folder(installed: Path, tmp_path: Path):
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import jobs, jobs.cli; "
        "assert 'installed' in jobs.__file__, jobs.__file__; jobs.cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(installed), "sweep", "demo", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "stg-cma" in done.stdout


TRAIN = """
import torch
from stgcma.config import ModelConfig, OptimConfig
from stgcma.models.adaptations import STGCMA
from stgcma.data.batch import AVBatch, EventTargets
from stgcma.tasks import build_model, build_task
from stgcma.training.engine import Precision, train_one_epoch
from stgcma.training.optim import Schedule, build_optimizer

task = build_task("ave", ModelConfig(backbone="clip_vit_demo", pretrained="builtin", adaptation=STGCMA()))
model = build_model(task)
optim = OptimConfig(epochs=1, batch_size=2, learning_rate=1e-3, warmup_epochs=0)
batch = AVBatch(
    clip_ids=("a", "b"),
    frames=torch.randn(2, 10, 3, 48, 48),
    fbank=torch.randn(2, 10, 48, 48),
    targets=EventTargets(labels=torch.randint(0, 29, (2, 10))),
)
losses = []
precision = Precision.choose("off", "cpu")
train_one_epoch(
    model, task, [batch] * 3, build_optimizer(model, optim), Schedule.of(optim, 3), config=optim, epoch=0,
    steps_per_epoch=3, precision=precision, scaler=precision.new_scaler(),
    on_step=lambda report: losses.append(report.loss),
)
assert losses[-1] < losses[0], losses
print("trained")
"""


def test_the_library_trains_with_its_own_few_packages(library_folder: Path, tmp_path: Path):
    done = run(library_folder, ["-c", TRAIN], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "trained"
    absent = run(library_folder, ["-c", "import mlflow"], tmp_path)
    assert "No module named 'mlflow'" in absent.stderr


def test_a_command_names_the_package_that_it_lacks(library_folder: Path, tmp_path: Path):
    link_packages(("typer", "pydantic", "pyyaml"), library_folder)
    write_ave(tmp_path, seconds=1.0)
    done = run(library_folder, ["-m", "jobs.cli", "preprocess", "--dataset", "ave", "--source", "."], tmp_path)
    assert done.returncode == 2, done.stderr
    assert "This command needs the Python package 'ray', which is not installed here." in done.stderr
    assert "pip install stgcma" in done.stderr
