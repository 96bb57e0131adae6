"""Readers for the files of ``infra/``: strict YAML, pinned versions, quantities, commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import typer.main
import yaml

from jobs.cli import app
from tests.paths import ROOT

INFRA = ROOT / "infra"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_BYTES = {"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30}


class _UniqueKeys(yaml.SafeLoader):
    """Refuses repeated keys, as ``kubectl`` and Compose do."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"repeated keys {repeated}", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> list[Any]:
    """All YAML documents of a file."""
    return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=_UniqueKeys))


def pinned(package: str) -> str:
    """Version of a package in ``constraints.txt``."""
    found = re.findall(rf"^{re.escape(package)}==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert len(found) == 1, f"constraints.txt pins {package} {len(found)} times"
    return found[0]


def quantity(text: str) -> float:
    """A Kubernetes quantity: ``500m`` -> 0.5, ``2Gi`` -> 2 ** 31."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text).groups()
    return float(number) / 1000 if unit == "m" else float(number) * _UNITS[unit]


def byte_size(text: str) -> int:
    """A size in a Compose file: ``2gb`` -> 2 ** 31."""
    number, unit = re.fullmatch(r"([0-9]+)([a-z]*)", text.lower()).groups()
    return int(number) * _BYTES[unit]


def parse_command(words: list[str]) -> click.Context:
    """Parse a command line of ``stgcma-jobs`` without running it. Wrong names and values raise.

    Recipe paths of the image are replaced by those of this checkout.
    """
    assert words[0] == "stgcma-jobs", f"{words} does not call stgcma-jobs"
    words = [word.replace("/opt/stgcma/", f"{ROOT}/") for word in words]
    group = typer.main.get_command(app)
    with click.Context(group, info_name="stgcma-jobs") as parent:
        name, command, rest = group.resolve_command(parent, words[1:])
        return command.make_context(name, list(rest), parent=parent)
