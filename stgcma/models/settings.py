"""Turn plain values, as in YAML and JSON, into frozen dataclasses, and report all problems at once.

A field of type ``AdaptationConfig`` becomes the class in ``ADAPTATIONS`` that its ``method`` names.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from stgcma.config import AdaptationConfig
from stgcma.errors import ConfigError

T = TypeVar("T")

Convert = Callable[[Any, Any, str], Any]
"""``(annotation, plain value, dotted path) -> value`` for fields that are not dataclasses. It raises ``ConfigError``
whose problems begin with the path."""

_WRONG = object()
"""Stands for a value whose problems have been recorded."""


def trusted(annotation: Any, value: Any, path: str) -> Any:
    """The ``Convert`` for values from ``dataclasses.asdict`` and JSON: tuples have become lists."""
    return tuple(value) if isinstance(value, list) else value


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str, convert: Convert = trusted) -> T:
    """Make a frozen dataclass from plain values.

    Args:
        cls: The dataclass. Its fields may be dataclasses, tuples of them, or ``None``.
        mapping: Field -> plain value.
        where: Source of the values, for messages.
        convert: Makes and checks the values that are not dataclasses.

    Raises:
        ConfigError: If there are problems. The message has one line per problem, with its dotted path.
    """
    problems: list[str] = []
    value = _record(cls, mapping, "", convert, problems)
    if problems:
        raise ConfigError(*problems, where=where)
    return typing.cast(T, value)


def _record(cls: type, mapping: Mapping[str, Any], prefix: str, convert: Convert, problems: list[str]) -> Any:
    """Make one dataclass. Unknown keys are recorded and left out. If a value is wrong, the result is ``_WRONG``."""
    if cls is AdaptationConfig:
        chosen = _adaptation(mapping, prefix, problems)
        if chosen is None:
            return _WRONG
        cls, mapping = chosen
    hints, known = typing.get_type_hints(cls), {f.name: f for f in fields(cls)}
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key in known:
            values[key] = _value(hints[key], value, f"{prefix}{key}", convert, problems)
        else:
            problems.append(f"{prefix}{key}: no such field; {_suggestion(key, known, 'fields here')}")
    for name, declared in known.items():
        if name not in values and declared.default is declared.default_factory is MISSING:
            if hints[name] is AdaptationConfig:  # the default method with its defaults
                values[name] = _record(AdaptationConfig, {}, f"{prefix}{name}.", convert, problems)
            else:
                values[name] = _WRONG
                problems.append(f"{prefix}{name}: needed, but not given.")
    if any(value is _WRONG for value in values.values()):
        return _WRONG
    try:
        return cls(**values)
    except ConfigError as error:
        path = prefix.removesuffix(".")
        problems.extend(_with_path(problem, path) for problem in error.problems)
        return _WRONG


def _value(annotation: Any, value: Any, path: str, convert: Convert, problems: list[str]) -> Any:
    """Make the value of one field: a dataclass, a tuple of dataclasses, or the result of ``convert``."""
    candidates = [annotation, *typing.get_args(annotation)]
    inner = next((c for c in candidates if isinstance(c, type) and is_dataclass(c)), None)
    if inner is not None and isinstance(value, Mapping):
        return _record(inner, value, f"{path}.", convert, problems)
    if inner is not None and typing.get_origin(annotation) is tuple and isinstance(value, list):
        items = [_value(inner, item, f"{path}.{number}", convert, problems) for number, item in enumerate(value)]
        return _WRONG if any(item is _WRONG for item in items) else tuple(items)
    try:
        return convert(annotation, value, path)
    except ConfigError as error:
        problems.extend(error.problems)
        return _WRONG


def _adaptation(
    mapping: Mapping[str, Any], prefix: str, problems: list[str]
) -> tuple[type[AdaptationConfig], dict[str, Any]] | None:
    """The class that ``method`` names, and its settings. None if the method is unknown.

    Fields that belong to another method are left out and reported in one line. They remain when a user changes only
    ``method`` of a recipe.
    """
    # Imported here because it imports torch, and commands read their configuration without torch.
    from stgcma.models.adaptations import ADAPTATIONS, DEFAULT_METHOD

    section, method = prefix.removesuffix("."), mapping.get("method", DEFAULT_METHOD)
    if not isinstance(method, str) or method not in ADAPTATIONS:
        problems.append(
            f"{prefix}method: no such method {method!r}; {_suggestion(method, ADAPTATIONS, 'choose one of')}"
        )
        return None
    names = {name: [f.name for f in fields(cls)] for name, cls in ADAPTATIONS.items()}
    left_over = [key for key in mapping if key not in names[method] and any(key in known for known in names.values())]
    if left_over:
        owner = next(name for name, known in names.items() if left_over[0] in known)
        problems.append(
            f"{section}: method {method} does not have {', '.join(left_over)} ({owner} does). Remove these fields, or "
            f"replace the whole section: --set '{section}={{method: {method}}}', in an ablation "
            f"set: {{{section}: {{method: {method}}}}}."
        )
    return ADAPTATIONS[method], {key: value for key, value in mapping.items() if key not in left_over}


def _suggestion(name: Any, known: Mapping[str, Any], lead: str) -> str:
    """``did you mean 'fusion'?``, or all names if none is similar."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"{lead}: {', '.join(known)}."


def _with_path(problem: str, path: str) -> str:
    """A problem that a dataclass found itself, with the path of the dataclass in front unless it is there already."""
    return problem if not path or problem.startswith((path, f"{path.rpartition('.')[2]}.")) else f"{path}: {problem}"
