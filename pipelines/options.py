"""Options of one dataset alone: fields of a frozen record, each with its help text and default.

The command line reads them from the record, so that a dataset declares its options in its own file and nowhere else.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Base of every dataset's record. A dataset without options of its own uses it as it is.

    Every field has a default and is made by ``option``; ``__post_init__`` checks the values and raises ``ConfigError``.
    """


def option(default: T, text: str) -> T:
    """A field that the command line sets: ``extra_frames: int`` becomes ``--extra-frames``.

    Its type is ``str``, ``int``, ``float``, ``bool`` or a ``Literal`` of strings, or one of these and None.

    Args:
        default: Its value where nothing is given.
        text: One line for ``--help``.
    """
    return field(default=default, metadata={"help": text})


def help_text(declared: Field[Any]) -> str:
    """What ``option`` was given for this field; empty for a field that the command line does not set."""
    return str(declared.metadata.get("help", ""))


def options_of(record: type) -> dict[str, Field[Any]]:
    """Name -> field of everything in a record that ``option`` made, in the order of the record."""
    return {declared.name: declared for declared in fields(record) if help_text(declared)}
