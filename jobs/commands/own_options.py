"""Command-line options that only one dataset has. Its option record declares them; ``--help`` lists them by dataset.

A command whose class is ``DatasetCommand`` leaves the options that it does not know in ``context.args``, and
``own_options`` parses these as options of the chosen dataset.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from pipelines.options import help_text, options_of
from stgcma.errors import ConfigError

Records = Mapping[str, type]
"""Dataset -> the frozen dataclass that declares its options (``pipelines.options.option``)."""


class DatasetCommand(TyperCommand):
    """A command with ``--dataset``. Its help imports the datasets, which declare the options it lists."""

    allow_extra_args = True
    ignore_unknown_options = True

    @staticmethod
    def records() -> Records:
        """The records by dataset. A method, so that other commands do not import the datasets."""
        raise NotImplementedError

    def format_options(self, ctx: Any, formatter: Any) -> None:
        super().format_options(ctx, formatter)
        without = []
        for dataset, record in self.records().items():
            rows = [_help_row(flag, declared, kind) for flag, declared, kind in _flags(record)]
            if rows:
                with formatter.section(f"Options of dataset {dataset}"):
                    formatter.write_dl(rows)
            else:
                without.append(dataset)
        if without:
            with formatter.section("Datasets without options of their own"):
                formatter.write_text(", ".join(without))


def own_options(context: typer.Context, dataset: str) -> dict[str, Any]:
    """Parse the dataset options on the command line of a ``DatasetCommand``.

    Returns:
        Field name -> value.

    Raises:
        ConfigError: As ``read_own_options``.
    """
    command = context.command
    assert isinstance(command, DatasetCommand)
    common = [name for parameter in command.params for name in parameter.opts]
    return read_own_options(context.args, dataset, command.records(), common=common)


def read_own_options(
    arguments: Iterable[str], dataset: str, records: Records, *, common: Iterable[str] = ()
) -> dict[str, Any]:
    """Parse the options of one dataset.

    Args:
        arguments: For example ``["--extra-frames", "60"]`` or ``["--extra-frames=60"]``. A bool is given as ``--name``
            or ``--no-name``.
        dataset: The dataset, a name in ``records``.
        records: The records of all datasets, to say which dataset a misplaced option belongs to.
        common: Options of the command itself, to suggest for a mistyped name.

    Returns:
        Field name -> value.

    Raises:
        ConfigError: If an option is unknown, belongs to another dataset, or has a missing or invalid value.
    """
    flags = {flag: (declared.name, kind) for flag, declared, kind in _flags(records[dataset])}
    rest, values = list(arguments), {}
    while rest:
        flag, given, text = rest.pop(0).partition("=")
        negated = f"--{flag.removeprefix('--no-')}"
        if flag not in flags and flag.startswith("--no-") and negated in flags and flags[negated][1] is bool:
            flag, given, text = negated, "=", "false"
        if flag not in flags:
            raise ConfigError(_not_an_option(flag, dataset, records, common))
        name, kind = flags[flag]
        if not given:
            if kind is bool:
                text = "true"
            elif not rest or rest[0].startswith("--"):
                raise ConfigError(f"{flag} needs a value.")
            else:
                text = rest.pop(0)
        values[name] = _parse(flag, kind, text)
    return values


def _flags(record: type) -> Iterator[tuple[str, Field[Any], Any]]:
    """``--name``, field and type of each option of a record."""
    hints = get_type_hints(record)
    for name, declared in options_of(record).items():
        yield f"--{name.replace('_', '-')}", declared, hints[name]


def _help_row(flag: str, declared: Field[Any], kind: Any) -> tuple[str, str]:
    """The two columns of one line of ``--help``."""
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    first = kinds[0]
    if first is bool:
        left = f"{flag} / --no-{flag.removeprefix('--')}"
    elif get_origin(first) is Literal:
        left = f"{flag} [{'|'.join(str(choice) for choice in get_args(first))}]"
    else:
        left = f"{flag} <{first.__name__}>"
    default = "" if declared.default is None else f"  [default: {declared.default}]"
    return left, f"{help_text(declared)}{default}"


def _parse(flag: str, kind: Any, text: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(text)
    except ValidationError as error:
        needed = error.errors()[0]["msg"].replace("Input should be", "needs", 1)
        raise ConfigError(f"{flag} {needed}; got {text!r}.") from None


def _not_an_option(flag: str, dataset: str, records: Records, common: Iterable[str]) -> str:
    """Message for an unknown option: which dataset has it, and which options this dataset has."""
    names = {name: [flag for flag, _, _ in _flags(record)] for name, record in records.items()}
    own = f"{dataset} has {', '.join(names[dataset]) or 'no options of its own'}."
    if not flag.startswith("-"):
        return f"Unexpected argument {flag!r}. Options are given as --name VALUE; {own}"
    owners = [name for name, flags in names.items() if flag in flags]
    if owners:
        kind = "dataset" if len(owners) == 1 else "datasets"
        return f"{flag} is an option of {kind} {', '.join(owners)}; {own}"
    close = difflib.get_close_matches(flag, [*names[dataset], *common], n=1, cutoff=0.7)
    return f"There is no option {flag}{f', did you mean {close[0]}?' if close else ';'} {own}"
