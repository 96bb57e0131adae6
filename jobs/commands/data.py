"""Commands that make shards."""

from __future__ import annotations

from typing import Annotated

import typer


def preprocess(
    dataset: Annotated[str, typer.Option(help="ave, avs-s4, avs-ms3 or music-avqa.")],
    source: Annotated[
        str | None, typer.Option(help="Official layout on disk or s3://  [default: data/raw/DATASET]")
    ] = None,
    output: Annotated[str, typer.Option(help="Root of the shards, directory or s3://")] = "data/shards",
    fbank: Annotated[list[str] | None, typer.Option(help="Filter bank to store; repeat for several.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N clips of each split.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Decoding processes  [default: one a CPU]")] = None,
    failure_budget: Annotated[float, typer.Option(help="Fraction of a split that may be lost.")] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Decode clips once into Parquet shards; a second run makes only what is missing."""
    raise NotImplementedError
