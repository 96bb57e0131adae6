"""Commands that check the method itself: parity with the reference and parameter counts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Golden vector files (.safetensors or .json).")
    ],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print every check as JSON.")] = False,
) -> None:
    """Compare this machine's numbers with reference vectors: one line a file, exit code 1 on any failure."""
    raise NotImplementedError


def params(
    table: Annotated[
        list[str] | None, typer.Option(help="Table of the paper; repeat for several  [default: all]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Trainable and total parameters of the paper's rows, built on the meta device beside the published values."""
    raise NotImplementedError
