"""Reads YAML files and ``--set a.b=v`` into checked configurations. No other module reads YAML.

An unknown key is an error with a suggestion. All problems of a file are reported together, each with its dotted path.
YAML follows version 1.2: ``off`` and ``no`` are strings, ``2e-6`` is a number. A repeated key is an error.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from jobs import SHIPPED
from jobs.runs.config import RunConfig, to_mapping
from stgcma.errors import ConfigError
from stgcma.models.settings import from_mapping

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """Safe loader that reads scalars as YAML 1.2 does and refuses repeated keys."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the base class declares it; a new dict keeps YAML 1.1 rules out

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} appears twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _scalar(node: yaml.Node) -> yaml.ScalarNode:
    assert isinstance(node, yaml.ScalarNode), "YAML resolves only scalars by their text"
    return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(_scalar(node))))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(loader.construct_scalar(_scalar(node))))


def parse_yaml(text: str, where: str) -> Any:
    """Parse one YAML document into plain values.

    Args:
        text: The document.
        where: What the text is, for messages.

    Raises:
        ConfigError: If the YAML is malformed or repeats a key; gives line and column.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place}: {getattr(error, 'problem', None) or error}.") from None


def find_file(path: str | Path) -> Path:
    """The file at ``path`` or, if there is none, the shipped recipe or ablation of that name.

    ``ave_clip_b16_tiny``, ``demo/clip_vit_demo``, ``table5.yaml`` and ``jobs/recipes/ave_clip_b16_tiny.yaml`` find
    shipped files from any working directory.
    """
    path = Path(path)
    if path.exists():
        return path
    name = path.as_posix().removeprefix("jobs/").removeprefix("recipes/").removeprefix("ablations/")
    for folder in ("recipes", "ablations"):
        shipped = SHIPPED / folder / f"{name.removesuffix('.yaml')}.yaml"
        if shipped.is_file():
            return shipped
    return path


def read_mapping(path: str | Path) -> dict[str, Any]:
    """Read a file that holds a YAML mapping.

    Raises:
        ConfigError: If the file is missing, is not UTF-8, is malformed YAML or does not hold a mapping.
    """
    path = find_file(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist.{_similar_files(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text: {error}.") from None
    mapping = parse_yaml(text, str(path))
    if not isinstance(mapping, dict):
        raise ConfigError(f"{path} needs a mapping of settings, got {type(mapping).__name__}.")
    return mapping


def _similar_files(path: Path) -> str:
    """A hint for a missing file: files of a similar name, or else all YAML files in its folder."""
    there = sorted(path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    shipped = [*sorted((SHIPPED / "recipes").rglob("*.yaml")), *sorted((SHIPPED / "ablations").glob("*.yaml"))]
    by_stem = {file.stem: file for file in [*shipped, *there]}
    if close := difflib.get_close_matches(path.stem, by_stem, n=3):
        return f" Did you mean {' or '.join(_shown(by_stem[stem]) for stem in close)}?"
    names = ", ".join(_shown(file) for file in shipped)
    folder = f" {path.parent} contains: {', '.join(file.name for file in there)}." if there else ""
    return f"{folder} Shipped recipes and ablations: {names}."


def _shown(path: Path) -> str:
    """The name of a shipped file; another path relative to the working directory if it lies below it."""
    for folder in ("recipes", "ablations"):
        if path.is_relative_to(SHIPPED / folder):
            return path.relative_to(SHIPPED / folder).with_suffix("").as_posix()
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def parse_override(text: str) -> tuple[str, Any]:
    """``"optim.epochs=3"`` -> ``("optim.epochs", 3)``. The value is YAML: ``[1, 2]``, ``null`` and ``true`` work.

    Raises:
        ConfigError: If the text is not ``KEY=VALUE`` or the value is malformed YAML.
    """
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
        raise ConfigError(f"--set needs KEY=VALUE with a dotted key, as in --set optim.epochs=3; got {text!r}.")
    return key, parse_yaml(value, f"--set {key}")


def apply_overrides(mapping: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of ``mapping`` with the settings at dotted keys replaced. ``build`` checks the names later.

    Args:
        mapping: Nested settings, as read from YAML.
        overrides: Dotted key -> value, such as ``{"optim.epochs": 3}``.
        where: What the overrides belong to, for messages.

    Raises:
        ConfigError: If a dotted key goes through a value that is not a mapping.
    """
    result = copy.deepcopy(dict(mapping))
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node = result
        for depth, parent in enumerate(parents):
            child = node.setdefault(parent, {})
            if child is None:
                child = node[parent] = {}
            if not isinstance(child, dict):
                path = ".".join(parents[: depth + 1])
                problem = f"{dotted} cannot be set, because {path} is {child!r} and has no fields."
                raise ConfigError(problem, where=where)
            node = child
        node[last] = copy.deepcopy(value)
    return result


def build(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build a frozen dataclass from plain values. Types are strict: ``"3"`` is not a number.

    Args:
        cls: The dataclass.
        mapping: Field -> plain value, nested.
        where: What the values belong to, for messages.

    Raises:
        ConfigError: With all problems of the mapping, each with its dotted path.
    """
    try:
        return from_mapping(cls, mapping, where, _strictly)
    except TypeError as error:
        raise ConfigError(f"{where}: settings need plain YAML values ({error}).") from None


def load_run_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a recipe and apply ``--set`` options to it.

    Args:
        path: The file, or the name of a shipped recipe.
        overrides: ``KEY=VALUE`` texts.

    Raises:
        ConfigError: If the file is not a recipe, or with all problems of its settings.
    """
    overrides = list(overrides)
    where = str(path) + (f" with {' '.join('--set ' + text for text in overrides)}" if overrides else "")
    content = read_mapping(path)
    if "runs" in content and "model" not in content:
        raise ConfigError(f"{path} is an ablation, not a recipe. Run: stgcma-jobs sweep {path}")
    mapping = apply_overrides(content, dict(parse_override(text) for text in overrides), where)
    return build(RunConfig, mapping, where)


def dump_run_config(config: RunConfig) -> str:
    """YAML text from which ``load_run_config`` reads an equal configuration."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


def _strictly(annotation: Any, value: Any, path: str) -> Any:
    """Convert a plain value to the annotated type by pydantic's strict rules for JSON."""
    try:
        return _adapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ConfigError(*(_describe(item, path) for item in error.errors())) from None


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def _describe(item: Any, path: str) -> str:
    """One pydantic error as ``dotted.path: message``."""
    message = item["msg"].replace("Input should be", "needs", 1)
    return f"{'.'.join([path, *map(str, item['loc'])])}: {message}, got {item['input']!r}."
