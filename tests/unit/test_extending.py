"""The examples in ``docs/extending.md`` equal the code of ``test_extend_*.py``, and its diffs apply to the packages."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
NEW_FILE = re.compile(r"New file \*\*(\w+\.py)\*\* in `([\w/]+)/`:\n\n```python\n(.*?)^```$", re.M | re.S)
ENTRY = re.compile(r"Its entry in `([\w/]+\.py)`:\n\n```diff\n(.*?)^```$", re.M | re.S)
NEW_FILES = {name: (folder, code) for name, folder, code in NEW_FILE.findall(PAGE)}
ENTRIES = dict(ENTRY.findall(PAGE))
TESTS = {
    "vit.py": "test_extend_backbone.py",
    "scaled.py": "test_extend_adaptation.py",
    "seconds.py": "test_extend_task.py",
    "sounds.py": "test_extend_dataset.py",
}
"""Example -> the test with the same code."""


def test_the_page_has_a_file_and_an_entry_for_each_registry() -> None:
    assert NEW_FILES.keys() == TESTS.keys()
    assert list(ENTRIES) == [f"{folder}/__init__.py" for folder, _ in NEW_FILES.values()]
    assert PAGE.count("```python\n") == PAGE.count("```diff\n") == 4


def definitions(code: str) -> list[str]:
    """Source of the classes, functions and constants of a module, in order. Constants include the text after them."""
    lines = code.splitlines()
    found: list[str] = []
    for node in ast.parse(code).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        text = "\n".join(lines[first - 1 : node.end_lineno])
        if isinstance(node, ast.Expr) and found:
            found[-1] += f"\n{text}"
        elif not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr):
            found.append(text)
    return found


def imported_names(code: str) -> set[tuple[str, str, str | None]]:
    """(module, name, alias) of every import at the top of a module."""
    found = set()
    for node in ast.parse(code).body:
        if isinstance(node, ast.Import):
            found |= {(alias.name, "", alias.asname) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "", alias.name, alias.asname) for alias in node.names}
    return found


@pytest.mark.parametrize("name", TESTS)
def test_an_example_is_the_code_of_its_test(name: str) -> None:
    example = NEW_FILES[name][1]
    test = (ROOT / "tests" / "unit" / TESTS[name]).read_text(encoding="utf-8")
    tested = definitions(test)
    assert [text for text in definitions(example) if text not in tested] == []
    assert imported_names(example) <= imported_names(test)


def apply_diff(text: str, diff: str) -> str:
    """Apply a diff without line numbers to ``text``. The lines that it replaces must occur in ``text`` once."""
    marked = [(line[:1], line[1:]) for line in diff.splitlines()]
    assert {mark for mark, _ in marked} <= {" ", "+", "-"}
    before = "".join(f"{line}\n" for mark, line in marked if mark != "+")
    after = "".join(f"{line}\n" for mark, line in marked if mark != "-")
    assert text.count(before) == 1, f"not in the file, or more than once:\n{before}"
    return text.replace(before, after)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with the four new files and their entries."""
    root = tmp_path_factory.mktemp("changed")
    for package in ("stgcma", "pipelines", "jobs"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (folder, code) in NEW_FILES.items():
        (root / folder / name).write_text(code, encoding="utf-8")
    for path, diff in ENTRIES.items():
        (root / path).write_text(apply_diff((root / path).read_text(encoding="utf-8"), diff), encoding="utf-8")
    return root


def test_the_changed_files_pass_the_linter(changed: Path) -> None:
    files = [*(f"{folder}/{name}" for name, (folder, _) in NEW_FILES.items()), *ENTRIES]
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), *files]
        done = subprocess.run(ruff, cwd=changed, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


CHECK = """
import shlex, sys
from jobs.runs.configfile import load_run_config
from pipelines.datasets import DATASETS
from stgcma.models.parameters import count_parameters
from stgcma.tasks import build_model, build_task

assert DATASETS["sounds"].options(onset=1).onset == 1
for line in sys.stdin:
    words = shlex.split(line)
    config = load_run_config(words[2], [text for option, text in zip(words, words[1:]) if option == "--set"])
    model = build_model(build_task(config.task, config.model), device="meta")
    print(config.task, config.data.dataset, config.model.backbone, config.model.adaptation.method,
          count_parameters(model).trainable > 0)
"""


@pytest.mark.slow
def test_the_changed_packages_build_what_the_commands_name(changed: Path) -> None:
    lines = PAGE.replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith("stgcma-jobs train") and "--dry-run" not in line]
    done = subprocess.run(
        [sys.executable, "-c", CHECK], input="\n".join(commands), cwd=changed, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "ave ave vit_demo stg_cma True",
        "ave ave clip_vit_demo scaled True",
        "seconds ave clip_vit_demo stg_cma True",
        "ave sounds clip_vit_demo stg_cma True",
    ]
