"""Commands that check the implementation: verify (parity with the reference) and params (parameter counts)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from stgcma.errors import ParityError


def verify(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files of reference vectors (.safetensors or .json).")
    ],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print every check as JSON.")] = False,
) -> None:
    """Compare this machine's numbers with reference vectors and with torchaudio. The exit code is 1 on failure."""
    from stgcma.parity.verify import verify_files

    reports = []
    for report in verify_files(files, device):
        reports.append(report)
        if not as_json:
            print(report.line())
            for failure in report.failures():
                print(f"     {failure}")
    if as_json:
        print(json.dumps([{**asdict(report), "passed": report.passed} for report in reports], indent=2))
    failed = [report.file for report in reports if not report.passed]
    if failed:
        raise ParityError(
            f"{len(failed)} of {len(reports)} checks failed. These differ from the reference or hold no reference "
            f"vectors: {', '.join(failed)}."
        )


def params(
    table: Annotated[
        list[str] | None, typer.Option(help="A table of the paper; repeat for several  [default: all]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Count the parameters of the paper's models. Prints them beside the published numbers."""
    from stgcma.parity.parameter_counts import as_json as to_plain
    from stgcma.parity.parameter_counts import count_rows, format_rows, rows_of

    tables: list[str | None] = [*table] if table else [None]
    rows = count_rows(row for name in tables for row in rows_of(name))
    print(json.dumps(to_plain(rows), indent=2) if as_json else format_rows(rows))
