"""Commands for one run: train, evaluate, import, sync and ui."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

TRACKING_HELP = "MLflow tracking URI, or none  [default: a SQLite file in OUTPUT]"


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Name or file of a recipe, e.g. ave_clip_b16_tiny.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeat for several.")
    ] = None,
    num_workers: Annotated[int, typer.Option(min=0, help="Ray Train workers; 0 trains in this process.")] = 0,
    shards: Annotated[str | None, typer.Option(help="Root of the shards: a directory or an s3:// URI.")] = None,
    output: Annotated[str, typer.Option(help="Folder of the runs: a directory or an s3:// URI.")] = "data/runs",
    tracking: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help=TRACKING_HELP)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and count parameters, but do not train.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a recipe. After an interruption, the same command continues from the last checkpoint."""
    from jobs.runs.config import with_shards
    from jobs.runs.configfile import load_run_config

    config = with_shards(load_run_config(recipe, overrides or ()), shards)
    if dry_run:
        from jobs.runs.plan import resolve

        facts = resolve(config, world_size=max(1, num_workers)).facts()
        print(json.dumps(facts, indent=2) if as_json else _plan_text(facts))
        return
    from jobs.runs.session import train_run

    try:
        result = train_run(config, output=output, num_workers=num_workers, device=device, tracking=tracking)
    except KeyboardInterrupt:
        print("Interrupted. Run the same command to continue from the last checkpoint.", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(asdict(result), indent=2))
        return
    if result.was_complete:
        print("This run is already complete. Its result (fractions in [0, 1]):")
    for name, value in result.metrics.items():
        if "/class_" not in name:
            print(f"  {name:<28} {value:.4f}")
    print(f"  {'best epoch':<28} {result.best_epoch} of {result.epochs_run}")
    print(f"  {'protocol':<28} {result.protocol}")
    print(f"Run folder: {result.run}")


def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    split: Annotated[str, typer.Option(help="Split to evaluate: train, val or test.")] = "test",
    weights: Annotated[str, typer.Option(help="Weights to evaluate: best or averaged.")] = "best",
    shards: Annotated[str | None, typer.Option(help="Root of the shards  [default: as in training]")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="For segmentation: another run, whose masks are drawn below.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate a run on one split. Also draws a confusion matrix, or the best and worst masks."""
    from jobs.runs.evaluation import evaluate_run
    from jobs.runs.folder import open_run
    from jobs.runs.tracking import sync_known

    result = evaluate_run(run, split=split, weights=weights, shards=shards, device=device, baseline=baseline)
    if result.data_digest != result.trained_on:
        print(
            f"These shards (digest {result.data_digest[:12]}) are not the ones the run was trained on "
            f"({result.trained_on[:12] or 'unknown'}). The files below are kept apart; the run's own result stays.",
            file=sys.stderr,
        )
    for problem in sync_known(open_run(run)):
        print(problem, file=sys.stderr)
    if as_json:
        print(json.dumps(asdict(result), indent=2))
        return
    print(f"{result.run}: {result.weights} weights on {result.num_clips} clips of {result.split}")
    for name, value in result.metrics.items():
        print(f"  {name:<28} {value:.4f}")
    for name, value in sorted(result.classes.items(), key=lambda item: item[1]):
        print(f"    {name:<26} {value:.4f}")
    for file in result.files:
        print(f"{result.run}/{file}")


def import_checkpoint(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Checkpoint of the authors' code, .pth or .safetensors.")
    ],
    recipe: Annotated[Path, typer.Option(help="The recipe that it was trained with.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeat for several.")
    ] = None,
    output: Annotated[str, typer.Option(help="Folder of the runs, a local directory.")] = "data/runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a checkpoint of the authors' code into a run. evaluate, ask and stgcma.load then read its folder."""
    from jobs.runs.configfile import load_run_config

    config = load_run_config(recipe, overrides or ())
    from jobs.runs.importing import import_checkpoint as convert

    done = convert(config, file, output=output)
    if as_json:
        print(json.dumps(asdict(done), indent=2))
        return
    print(f"{done.trainable:,} trained parameters on the backbone {done.backbone}")
    print(f"Run folder: {done.run}")
    print(f"Next: stgcma-jobs evaluate {done.run} --shards ROOT")


def sync(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    tracking: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help=TRACKING_HELP)] = None,
) -> None:
    """Send MLflow the metrics and files of a run that it lacks."""
    from jobs.runs.folder import open_run
    from jobs.runs.tracking import default_tracking_uri, sync_run

    folder = open_run(run)
    report = sync_run(folder, tracking or default_tracking_uri(folder.parent_uri))
    print(
        f"{report.tracking_uri}: run {report.run_id}, "
        f"{report.num_metrics} metric values and {report.num_artifacts} files were missing and have been sent."
    )


def ui(
    output: Annotated[str, typer.Option(help="Folder of the runs.")] = "data/runs",
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 picks a free one.")] = 5000,
) -> None:
    """Start the MLflow UI on 127.0.0.1 and print its address."""
    from jobs.runs.tracking import serve_ui

    serve_ui(output, port)


def _plan_text(plan: dict) -> str:
    """What ``--dry-run`` prints."""
    counts = plan["parameters"]
    lines = [
        f"{plan['run_name']}",
        f"  shards      {plan['source']}  (digest {plan['digest'][:12]})",
        "  clips       " + ", ".join(f"{split} {number}" for split, number in plan["num_clips"].items()),
        f"  steps       {plan['steps_per_epoch']} per epoch",
        f"  parameters  {counts['trainable']:,} trained of {counts['total']:,}",
    ]
    lines += [f"    {role:<28} {number:>12,}" for role, number in counts["by_role"].items()]
    return "\n".join(lines)
