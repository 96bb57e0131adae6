"""``import stgcma`` offers the documented names, imports no torch, and its examples run."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import stgcma
from tests.paths import ROOT


def test_every_name_exists_and_comes_from_the_module_that_type_checkers_read():
    assert sorted(stgcma.__all__) == sorted(stgcma._HOME_OF)
    tree = ast.parse((ROOT / "stgcma" / "__init__.py").read_text())
    declared = {
        alias.name: node.module
        for block in ast.walk(tree)
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert declared == stgcma._HOME_OF
    for name in stgcma.__all__:
        value = getattr(stgcma, name)
        assert callable(value) or isinstance(value, dict), name
        assert name in dir(stgcma)


def test_other_names_raise_attribute_errors():
    with pytest.raises(AttributeError, match="module 'stgcma' has no attribute 'STGCAM'"):
        _ = stgcma.STGCAM


def test_importing_the_package_imports_no_torch():
    code = "import sys, stgcma; assert stgcma.__version__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def modules_with_examples() -> list[str]:
    files = [file for package in ("stgcma", "pipelines", "jobs") for file in (ROOT / package).rglob("*.py")]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if ">>> " in file.read_text()]
    return sorted(name.removesuffix(".__init__") for name in names)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
