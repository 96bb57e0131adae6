"""Commands on synthetic clips: synthesize, demo."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.commands.own_options import DatasetCommand, Records, own_options

TASK_HELP = "t1: seen and heard; t3: off-screen impostors; t4: two objects, which one sounds."


class SynthesizeCommand(DatasetCommand):
    """``synthesize``, with the options of every synthetic set in its help."""

    @staticmethod
    def records() -> Records:
        from jobs.preparation.synthesis import SYNTHETIC_SETS

        return {name: synthetic.config for name, synthetic in SYNTHETIC_SETS.items()}


def synthesize(
    context: typer.Context,
    output: Annotated[str, typer.Option(help="Folder to write.")],
    dataset: Annotated[str, typer.Option(help="Whose layout: one of those below.")] = "ave",
    clips: Annotated[int, typer.Option(help="Training clips.")] = 400,
    val: Annotated[int, typer.Option(help="Validation clips.")] = 100,
    test: Annotated[int, typer.Option(help="Test clips.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a synthetic dataset of any size in the official layout; its labels depend on both picture and sound."""
    from jobs.preparation import synthesis

    synthetic = synthesis.synthetic_set(dataset)
    config = synthetic.build(num_train=clips, num_val=val, num_test=test, seed=seed, **own_options(context, dataset))
    synthesis.run(config, output, dataset=dataset, as_json=as_json)


def demo(
    output: Annotated[str, typer.Option(help="Folder for everything the demo writes.")] = "demo",
    act: Annotated[
        int | None, typer.Option(min=1, max=2, help="1: events; 2: masks of the sounding objects  [default: both]")
    ] = None,
    task: Annotated[str, typer.Option(help=f"Act 1. {TASK_HELP}")] = "t4",
    clips: Annotated[int, typer.Option(help="Training clips of each act.")] = 400,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Training seeds of each model  [default: 3 in act 1, 2 in act 2]")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time  [default: one per CPU, at most 6]")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of every model.")
    ] = None,
) -> None:
    """The whole project in minutes: synthetic clips, shards, several models with several seeds, and a table per act."""
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
