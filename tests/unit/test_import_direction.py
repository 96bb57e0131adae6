"""Imports point one way: ``stgcma`` <- ``pipelines`` <- ``jobs``, and one way between the rooms of a package.

The test reads the source of every file. Imports in functions and under ``TYPE_CHECKING`` count too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGES = ("stgcma", "pipelines", "jobs")
TENSORS = {"torch", "torchvision", "numpy", "timm", "open_clip", "safetensors"}
PARQUET = {"pyarrow"}
MEDIA = {"av", "decord", "torchaudio", "simplejpeg", "PIL", "h5py"}
CLUSTER = {"ray", "fsspec", "s3fs"}


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; the project uses absolute ones"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return found


def third_party(modules: set[str]) -> set[str]:
    return {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names)


def imports_within(modules: set[str], *prefixes: str) -> set[str]:
    """Those that are one of the given modules or below one."""
    return {name for name in modules if any(f"{name}.".startswith(f"{prefix}.") for prefix in prefixes)}


ALL_FILES = [pytest.param(path, id=str(path.relative_to(ROOT))) for name in PACKAGES for path in files_of(name)]


@pytest.mark.parametrize("path", ALL_FILES)
def test_imports_point_down(path: Path):
    package = path.relative_to(ROOT).parts[0]
    modules = imported_modules(path)
    if package == "stgcma":
        allowed = {"stgcma"} | TENSORS | (PARQUET if path.is_relative_to(ROOT / "stgcma" / "data") else set())
        if path == ROOT / "stgcma" / "parity" / "kaldi.py":
            allowed |= {"torchaudio"}
        assert third_party(modules) <= allowed
    elif package == "pipelines":
        allowed = {"pipelines", "stgcma", "torch", "numpy"} | PARQUET | MEDIA | CLUSTER
        assert third_party(modules) <= allowed
        assert not imports_within(modules, "stgcma.models", "stgcma.tasks", "stgcma.training.engine", "ray.train")
    if package != "jobs":
        assert not imports_within(modules, "jobs", "tests", "benchmarks", "infra")


ROOMS = (
    "stgcma",
    "stgcma.data",
    "stgcma.models",
    "stgcma.tasks",
    "stgcma.training",
    "stgcma.parity",
    "pipelines",
    "pipelines.media",
    "pipelines.synthetic",
    "pipelines.datasets",
    "pipelines.shards",
    "pipelines.preprocess",
    "jobs",
    "jobs.preparation",
    "jobs.runs",
    "jobs.tables",
    "jobs.sweeps",
    "jobs.demo",
    "jobs.commands",
    "jobs.cli",
)
"""The rooms: folders, and the two top files of packages. A room may only import rooms above it in this list."""


def modules_of(package: str) -> dict[str, Path]:
    """Dotted name -> file."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files_of(package)}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = {name: path for package in PACKAGES for name, path in modules_of(package).items()}


def arrows(path: Path) -> set[str]:
    """Modules of the project that a file imports; ``from package import name`` is an arrow to ``package.name``."""
    found = set()
    for name in imported_modules(path):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {""}


def room(module: str) -> str:
    """The room of a module: the longest entry of ``ROOMS`` that equals it or is above it."""
    return max((name for name in ROOMS if f"{module}.".startswith(f"{name}.")), key=len)


FRONT_DOOR = "stgcma"
"""The module that offers names of all rooms of its package. No file of the package imports it."""


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {FRONT_DOOR}))
def test_no_arrow_between_rooms_points_up(module: str):
    up = [name for name in arrows(MODULES[module]) if ROOMS.index(room(name)) > ROOMS.index(room(module))]
    assert not up, f"{module} in room {room(module)} imports {', '.join(f'{name} ({room(name)})' for name in up)}"


def test_the_library_does_not_go_through_its_own_front_door():
    assert not [name for name in modules_of("stgcma") if FRONT_DOOR in arrows(MODULES[name])]


def test_every_folder_belongs_to_a_room():
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES.values()}
    assert {room(folder) for folder in folders if folder not in PACKAGES} & set(PACKAGES) == set()


def test_no_circle_between_files():
    graph = {name: arrows(path) - {name} for name, path in MODULES.items()}
    order, done = [], set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for imported in sorted(graph[name]):
                visit(imported, (*trail, name))
            done.add(name)
            order.append(name)

    for name in sorted(graph):
        visit(name, ())
    assert set(order) == set(MODULES)


def test_only_the_tracking_of_runs_and_sweeps_imports_mlflow():
    importing = [path for path in files_of("jobs") if imports_within(imported_modules(path), "mlflow")]
    assert [path.relative_to(ROOT).as_posix() for path in sorted(importing)] == [
        "jobs/runs/tracking.py",
        "jobs/sweeps/tracking.py",
    ]


def test_the_packages_were_found():
    assert {name: len(files_of(name)) > 10 for name in PACKAGES} == dict.fromkeys(PACKAGES, True)


BLOCKED = ("ray", "mlflow", "typer", "decord", "torchaudio", "s3fs", "yaml", "av", "pydantic", "rich", "matplotlib")

BARE_MACHINE = f"""
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import stgcma.training.engine, stgcma.tasks, stgcma.data.dataset
from stgcma.config import ModelConfig
from stgcma.models.adaptations import STGCMA
from stgcma.tasks import build_model, build_task

config = ModelConfig(backbone="clip_vit_demo", pretrained="none", adaptation=STGCMA())
model = build_model(build_task("ave", config), device="meta")
loaded = [name for name in {BLOCKED!r} if name in sys.modules]
print(sum(parameter.numel() for parameter in model.parameters()) > 0, loaded)
"""


@pytest.mark.slow
def test_the_library_works_where_only_torch_timm_and_open_clip_are_installed():
    """In a process without the other packages, loop, tasks and loader can be imported, and a model can be built."""
    done = subprocess.run([sys.executable, "-c", BARE_MACHINE], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True []"
