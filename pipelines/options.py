"""Options that only one dataset has: fields of a frozen record, each with its default and help text.

The command line reads them from the record, so a dataset declares its options in its own file and nowhere else.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Base of every dataset's options; a dataset without options of its own uses this class.

    ``option`` makes every field; ``__post_init__`` checks the values and raises ``ConfigError``.
    """


def option(default: T, text: str) -> T:
    """Make a field that the command line sets: ``extra_frames: int`` becomes ``--extra-frames``.

    The field's type is ``str``, ``int``, ``float``, ``bool``, a ``Literal`` of strings, or one of these or None.

    Args:
        default: Value if the option is not given.
        text: One line for ``--help``.
    """
    return field(default=default, metadata={"help": text})


def help_text(declared: Field[Any]) -> str:
    """The help text of a field; empty if ``option`` did not make it."""
    return str(declared.metadata.get("help", ""))


def options_of(record: type) -> dict[str, Field[Any]]:
    """Name -> field, for the fields of a record that ``option`` made, in the record's order."""
    return {declared.name: declared for declared in fields(record) if help_text(declared)}
