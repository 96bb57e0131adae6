"""Commands for synthetic clips: synthesize and demo."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.commands.own_options import DatasetCommand, Records, own_options

TASK_HELP = "t1: seen and heard; t3: off-screen impostors; t4: which of two objects sounds."


class SynthesizeCommand(DatasetCommand):
    """``synthesize``, whose help lists the options of every synthetic set."""

    @staticmethod
    def records() -> Records:
        from jobs.preparation.synthesis import SYNTHETIC_SETS

        return {name: synthetic.config for name, synthetic in SYNTHETIC_SETS.items()}


def synthesize(
    context: typer.Context,
    output: Annotated[str, typer.Option(help="Folder to write into.")],
    dataset: Annotated[str, typer.Option(help="Dataset whose layout is written; the names are listed below.")] = "ave",
    clips: Annotated[int, typer.Option(help="Number of training clips.")] = 400,
    val: Annotated[int, typer.Option(help="Number of validation clips.")] = 100,
    test: Annotated[int, typer.Option(help="Number of test clips.")] = 200,
    seed: Annotated[int, typer.Option(help="Random seed of the clips.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a synthetic dataset in an official layout. Its labels depend on both picture and sound."""
    from jobs.preparation import synthesis

    synthetic = synthesis.synthetic_set(dataset)
    config = synthetic.build(num_train=clips, num_val=val, num_test=test, seed=seed, **own_options(context, dataset))
    synthesis.run(config, output, dataset=dataset, as_json=as_json)


def demo(
    output: Annotated[str, typer.Option(help="Folder for everything the demo writes.")] = "demo",
    act: Annotated[
        int | None, typer.Option(min=1, max=2, help="1: events; 2: masks of the sounding objects  [default: both]")
    ] = None,
    task: Annotated[str, typer.Option(help=f"Task of act 1. {TASK_HELP}")] = "t4",
    clips: Annotated[int, typer.Option(help="Number of training clips of each act.")] = 400,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Training seeds of each model  [default: 3 in act 1, 2 in act 2]")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Trials to run at the same time  [default: one per CPU, at most 6]")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every model; repeat for several."),
    ] = None,
) -> None:
    """Run the whole project in minutes. Makes synthetic clips and shards, trains models, prints a table per act."""
    from jobs.demo.events_act import events_act
    from jobs.demo.masks_act import masks_act
    from jobs.demo.runner import run_act

    for number, chosen in ((1, events_act(task, clips)), (2, masks_act(clips))):
        if act in (None, number):
            run_act(
                chosen,
                output,
                seeds=None if seeds is None else tuple(range(seeds)),
                concurrency=concurrency,
                overrides=tuple(overrides or ()),
            )
