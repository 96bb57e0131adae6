"""Commands around one run: train, evaluate, sync, ui."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TRACKING_HELP = "MLflow tracking URI, or 'none'  [default: sqlite in OUTPUT]"


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe, e.g. jobs/recipes/ave_clip_b16_tiny.yaml.")
    ],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting.")] = None,
    num_workers: Annotated[int, typer.Option(min=0, help="Ray Train workers; 0 trains in this process.")] = 0,
    shards: Annotated[str | None, typer.Option(help="Root of the shards, directory or s3://")] = None,
    output: Annotated[str, typer.Option(help="Where run folders lie, directory or s3://")] = "data/runs",
    tracking: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help=TRACKING_HELP)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, count parameters, train nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a recipe. The same command after an interruption goes on from the last checkpoint."""
    raise NotImplementedError


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    shards: Annotated[str | None, typer.Option(help="Root of the shards  [default: as trained]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Metrics of a run's best checkpoint on one split, per class, with the confusion matrix as a picture."""
    raise NotImplementedError


def sync(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    tracking: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help=TRACKING_HELP)] = None,
) -> None:
    """Send to MLflow what a run recorded and a tracking server missed."""
    raise NotImplementedError


def ui(
    output: Annotated[str, typer.Option(help="Where run folders lie.")] = "data/runs",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow on the loopback interface and print its address."""
    raise NotImplementedError
