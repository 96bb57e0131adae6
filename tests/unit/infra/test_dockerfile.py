"""The Dockerfile agrees with the files that it copies and installs."""

from __future__ import annotations

import re
import tomllib

import pytest

from jobs.runs import session
from tests.unit.infra.files import INFRA, ROOT, pinned

DOCKERFILE = (INFRA / "Dockerfile").read_text()
CODE = re.sub(r"^\s*#.*$", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_python_is_a_patch_version_the_project_supports():
    version = re.search(r"^ARG PYTHON_VERSION=(\d+\.\d+\.\d+)$", CODE, flags=re.MULTILINE)[1]
    numbers = tuple(map(int, version.split(".")))
    lowest, below = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert (3, int(lowest)) <= numbers[:2] < (3, int(below))


def test_every_dependency_is_pinned_by_the_constraints_file():
    assert CODE.count("--constraint constraints.txt") == CODE.count("pip install") - 1, (
        "all installations except the project itself"
    )
    named = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["postgres"]]
    for requirement in named:
        pinned(re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-"))
    assert pinned("uv")
    ray = next(requirement for requirement in named if requirement.startswith("ray["))
    assert {"default", "data", "train"} <= set(re.search(r"\[(.*)\]", ray)[1].split(","))


def test_copied_files_exist_and_reach_the_build():
    ignored = (INFRA / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    for line in re.findall(r"^COPY (.+)$", CODE, flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), f"{source} is copied but does not exist"
            assert f"!{source}" in ignored, f"{source} is copied but not in the build context"


def test_the_installed_packages_are_copied():
    include = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    for pattern in include:
        name = pattern.removesuffix("*")
        assert f"COPY {name} {name}" in CODE


def test_one_file_builds_both_variants_and_refuses_a_third():
    assert "ARG ACCELERATOR=cpu" in CODE
    (choices,) = re.findall(r"case .*? esac", CODE, flags=re.DOTALL)
    assert re.findall(r"(\w+|\*)\)", choices) == ["cpu", "cuda", "*"]


def test_it_runs_as_an_ordinary_user_with_the_command_as_entrypoint():
    instructions = [line.split(" ", 1) for line in CODE.splitlines() if re.match(r"[A-Z]+ ", line)]
    users = [value for name, value in instructions if name == "USER"]
    assert users == ["1000:1000"]
    last = [name for name, _ in instructions]
    assert last.index("USER") > max(k for k, name in enumerate(last) if name == "RUN")
    (script,) = PROJECT["scripts"]
    assert f'ENTRYPOINT ["{script}"]' in CODE


def test_a_run_in_the_image_records_the_commit_it_was_built_from(tmp_path, monkeypatch):
    (variable,) = re.findall(r"^ENV (\w+)=\$\{GIT_COMMIT\}$", CODE, flags=re.MULTILINE)
    assert "ARG GIT_COMMIT=" in CODE
    monkeypatch.setenv(variable, "0123abcd")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|0123abcd", session.git_commit())
    monkeypatch.setattr(session, "__file__", str(tmp_path / "jobs" / "runs" / "session.py"))
    assert session.git_commit() == "0123abcd"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "PASSWORD", "TOKEN"])
def test_the_image_holds_no_secret(name: str):
    assert name not in DOCKERFILE
