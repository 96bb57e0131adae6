"""The command that makes shards: preprocess."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from jobs.commands.own_options import DatasetCommand, Records, own_options


class PreprocessCommand(DatasetCommand):
    """``preprocess``, whose help lists the options of every dataset."""

    @staticmethod
    def records() -> Records:
        from pipelines.datasets import DATASETS

        return {name: source.options for name, source in DATASETS.items()}


def preprocess(
    context: typer.Context,
    dataset: Annotated[str, typer.Option(help="Name of the dataset; the names are listed below.")],
    source: Annotated[
        str | None,
        typer.Option(help="Dataset in its official layout: a directory or an s3:// URI  [default: data/raw/DATASET]"),
    ] = None,
    output: Annotated[str, typer.Option(help="Root of the shards: a directory or an s3:// URI.")] = "data/shards",
    fbank: Annotated[
        list[str] | None,
        typer.Option(help="Filter bank to store; repeat for several  [default: those the dataset's models read]"),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Make only the first N clips of each split.")] = None,
    num_workers: Annotated[
        int | None, typer.Option(help="Decoding processes; 0 uses one without Ray  [default: one per CPU]")
    ] = None,
    failure_budget: Annotated[float, typer.Option(help="Fraction of a split's clips that may fail.")] = 0.01,
    clip_timeout: Annotated[float, typer.Option(help="Seconds after which a clip counts as failed.")] = 300.0,
    channel_mode: Annotated[str, typer.Option(help="How to mix channels to mono: mean or left.")] = "mean",
    resample: Annotated[
        str, typer.Option(help="How to resample to 16 kHz: sinc, or nearest_moviepy as published.")
    ] = "sinc",
    frame_encoding: Annotated[
        str, typer.Option(help="jpeg, or raw: 7 times the bytes, 10 times faster to read.")
    ] = "jpeg",
    short_side: Annotated[int, typer.Option(help="Largest shorter side of the stored frames, in pixels.")] = 256,
    clips_per_shard: Annotated[
        int | None, typer.Option(help="Media files per Parquet file  [default: 32, more where the set is large]")
    ] = None,
    ray_address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="Ray cluster: local, auto or an address.")
    ] = "local",
    verify: Annotated[bool, typer.Option(help="Read all existing data and repair what is damaged.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Decode the clips of a dataset into Parquet shards. A second run makes only the missing shards."""
    from jobs.preparation.preprocessing import run
    from pipelines.config import PreprocessConfig
    from pipelines.datasets import dataset_source

    record = dataset_source(dataset).options
    choices: dict[str, Any] = {
        "channel_mode": channel_mode,
        "resample": resample,
        "frame_encoding": frame_encoding,
    }
    config = PreprocessConfig(
        dataset=dataset,
        source=source or f"data/raw/{dataset}",
        output=output,
        fbank_specs=tuple(fbank or ()),
        limit=limit,
        num_workers=num_workers,
        failure_budget=failure_budget,
        clip_timeout=clip_timeout,
        options=record(**own_options(context, dataset)),
        short_side=short_side,
        clips_per_shard=clips_per_shard,
        ray_address=ray_address,
        **choices,
    )
    try:
        run(config, verify=verify, as_json=as_json)
    except KeyboardInterrupt:
        print("Interrupted. Finished shards are kept; run the same command to make the others.", file=sys.stderr)
        raise typer.Exit(130) from None
