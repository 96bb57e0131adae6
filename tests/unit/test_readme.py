"""The README's Python runs and prints what its comments say; the commands of all documents are ones that exist."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from jobs.commands import COMMANDS
from jobs.commands.own_options import DatasetCommand, own_options
from jobs.runs.configfile import find_file, load_run_config
from tests.paths import ROOT
from tests.unit.infra.files import parse_command
from tests.unit.test_docs import DOCUMENTS, FENCE, INLINE_CODE, names_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
PLACEHOLDER = re.compile(r"[A-Z]+|mine(\.yaml)?")
"""Arguments that stand for a file of the reader's own."""


def test_the_python_of_the_readme_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
    code = "".join(blocks)
    expected = re.findall(r"^print\(.*\)  # (.+)$", code, re.M)
    assert code.count("print(") == len(expected) > 0
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == expected


def test_the_run_folder_of_the_example_is_the_one_that_its_command_writes() -> None:
    (train,) = [words for words in commands(README) if words[1:3] == ["train", "demo/clip_vit_demo"]]
    settings = [text for option, text in itertools.pairwise(train) if option == "--set"]
    run = f"small/runs/{load_run_config(train[2], settings).run_name}"
    assert [words[2] for words in commands(README) if words[1] == "evaluate" and words[2].startswith("small/")] == [run]


def commands(text: str) -> list[list[str]]:
    """Words of every ``stgcma-jobs`` command in code, those that are written out."""
    text = text.replace("\\\n", " ")
    lines = [line for block in FENCE.finditer(text) for line in block[0].splitlines()]
    found = [re.search(r"(?:^|exec ray-head )(stgcma-jobs\s.*)", line) for line in lines]
    found += [re.search(r"^(stgcma-jobs\s.*)", code, re.S) for code in INLINE_CODE.findall(FENCE.sub("", text))]
    words = [shlex.split(match[1], comments=True) for match in found if match]
    return [line for line in words if line[1:] != ["..."]]


@pytest.mark.parametrize("path", DOCUMENTS, ids=names_of)
def test_commands_exist_with_their_options_and_files(path: Path) -> None:
    for words in commands(path.read_text(encoding="utf-8")):
        assert words[1] in COMMANDS
        if len(words) == 2:  # its name in a sentence
            continue
        context = parse_command(words)
        dataset = context.params.get("dataset")
        if isinstance(context.command, DatasetCommand) and dataset in context.command.records():
            own_options(context, dataset)
        if words[1] in ("train", "sweep", "report", "pretrain-grounding") and not PLACEHOLDER.fullmatch(words[2]):
            assert find_file(words[2]).is_file(), f"{' '.join(words)}: no shipped file {words[2]}"


def test_a_command_that_does_not_exist_is_reported() -> None:
    assert commands(
        "`stgcma-jobs params`\n```\nstgcma-jobs train a \\\n  --dry-run  # counts\nx stgcma-jobs\n```\n"
    ) == [
        ["stgcma-jobs", "train", "a", "--dry-run"],
        ["stgcma-jobs", "params"],
    ]
    for line in ("stgcma-jobs teach a", "stgcma-jobs train a --workers 2", "stgcma-jobs params --table"):
        with pytest.raises(Exception, match=r"No such (command|option)|requires an argument"):
            parse_command(shlex.split(line))


@pytest.mark.parametrize("path", DOCUMENTS, ids=names_of)
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    text = path.read_text(encoding="utf-8")
    code = [*(block[0] for block in FENCE.finditer(text)), *INLINE_CODE.findall(FENCE.sub("", text))]
    named = {target for part in code for target in re.findall(r"^make ([\w-]+)", part, re.M)}
    assert named <= targets
