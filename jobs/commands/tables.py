"""Commands for tables of runs: sweep and report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.training import TRACKING_HELP


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ablation file, e.g. jobs/ablations/table7.yaml.")],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print parameters, published parameters, FLOPs and steps; needs no weights and no data."
        ),
    ] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Trials to run at the same time.")] = 1,
    num_workers: Annotated[int, typer.Option(min=0, help="Ray Train workers per trial; 0 trains without Ray.")] = 0,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Run only this row; repeat for several.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every row; repeat for several."),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop a trial after this many minutes  [default: never]")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop a trial after this many epochs without improvement  [default: never]")
    ] = None,
    shards: Annotated[str | None, typer.Option(help="Root of the shards: a directory or an s3:// URI.")] = None,
    output: Annotated[str, typer.Option(help="Folder of the runs: a directory or an s3:// URI.")] = "data/runs",
    tracking: Annotated[str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help=TRACKING_HELP)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan or the report as JSON.")] = False,
) -> None:
    """Run the missing trials of a table. Finished trials are skipped, interrupted ones are continued."""
    from jobs.tables.ablation import load_ablation

    settings = list(overrides or [])
    for key, value in (("max_minutes", max_minutes), ("patience_epochs", patience)):
        settings += [] if value is None else [f"optim.{key}={value}"]
    ablation = load_ablation(file, settings, shards=shards)
    if dry_run:
        from jobs.tables.dry_run import as_json as plan_as_json
        from jobs.tables.dry_run import format_plan, plan_rows

        chosen = ablation.only(only or [])
        rows = plan_rows(chosen)
        print(json.dumps(plan_as_json(chosen, rows), indent=2) if as_json else format_plan(chosen, rows))
        return
    from jobs.sweeps.sweep import run_sweep
    from jobs.tables.report_files import render

    try:
        result = run_sweep(
            ablation,
            output=output,
            num_workers=num_workers,
            concurrency=concurrency,
            device=device,
            tracking=tracking,
            only=tuple(only or ()),
            retry_failed=retry_failed,
        )
    except KeyboardInterrupt:
        print("Interrupted. Run the same command to run the missing trials.", file=sys.stderr)
        raise typer.Exit(130) from None
    for warning in result.warnings:
        print(warning, file=sys.stderr)
    print(render(result.report, "json" if as_json else "md"), end="")
    print(f"{result.summary}\nReport: {result.folder}/report.html", file=sys.stderr)
    result.raise_if_failed()


def report(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|NAME]", help="An ablation file or the name of a sweep  [default: the only sweep]"
        ),
    ] = None,
    runs: Annotated[str, typer.Option(help="Folder of the runs: a directory or an s3:// URI.")] = "data/runs",
    format_name: Annotated[str, typer.Option("--format", help="md, latex, csv, html or json.")] = "md",
    output: Annotated[str | None, typer.Option(help="Folder to write into  [default: print]")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="The --set options that the sweep was given.")
    ] = None,
) -> None:
    """Print a table like the paper's. It has published values, our means with intervals, and missing trials."""
    from jobs.sweeps.sweep import find_table, ran_otherwise
    from jobs.tables.report import collect
    from jobs.tables.report_files import render, write_reports

    ablation = find_table(table, runs, overrides or ())
    if hint := ran_otherwise(ablation, runs):
        print(hint, file=sys.stderr)
    made = collect(ablation, runs)
    text = render(made, format_name)
    if output is None:
        print(text, end="")
        return
    for location in write_reports(made, output, (format_name,)):
        print(location)
