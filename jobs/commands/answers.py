"""Commands for question answering: pretrain-grounding and ask."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.training import TRACKING_HELP


def pretrain_grounding(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE", help="A recipe of task grounding or avqa, e.g. grounding_swin_large_l.yaml."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeat for several.")
    ] = None,
    num_workers: Annotated[int, typer.Option(min=0, help="Ray Train workers; 0 trains in this process.")] = 0,
    shards: Annotated[str | None, typer.Option(help="Root of the shards: a directory or an s3:// URI.")] = None,
    output: Annotated[str, typer.Option(help="Folder of the runs: a directory or an s3:// URI.")] = "data/runs",
    tracking: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help=TRACKING_HELP)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Pretrain the grounding layers of question answering. They learn which frames belong to a sound."""
    from jobs.runs.config import with_shards
    from jobs.runs.configfile import load_run_config
    from jobs.runs.grounding import pretrain_grounding as pretrain

    config = with_shards(load_run_config(recipe, overrides or ()), shards)
    result, file = pretrain(config, output=output, num_workers=num_workers, device=device, tracking=tracking)
    if as_json:
        print(json.dumps({**asdict(result), "grounding_checkpoint": file}, indent=2))
        return
    for name, value in result.metrics.items():
        print(f"  {name:<28} {value:.4f}")
    print(f"Run folder: {result.run}")
    print(f"To start a training from it: --set model.grounding_checkpoint={file}")


def ask(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or weight file of task avqa.")],
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file with sound.")],
    questions: Annotated[
        list[str], typer.Argument(metavar="QUESTION...", help="Questions worded like the training questions.")
    ],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    top: Annotated[int, typer.Option(min=1, help="Number of answers to show per question.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Ask a trained run questions about a video."""
    from jobs.runs.answering import ask as answer

    found = answer(run, video, questions, device=device, top=top)
    if as_json:
        print(json.dumps([asdict(item) for item in found], indent=2))
        return
    for item in found:
        print(item.question)
        for word, probability in item.answers:
            print(f"  {word:<20} {probability:.3f}")
