"""``sercache bench engine``."""

from typing import Annotated

import typer

from .common_options import Json

_GOAL = 1.1


def bench_engine(
    engines: Annotated[str, typer.Option(metavar="A,B", help="The engines to compare.")] = "processes,ray",
    tasks: Annotated[int, typer.Option(min=1, help="How many.")] = 6,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each takes.")] = 10.0,
    processes: Annotated[int, typer.Option(min=1, help="Side by side.")] = 2,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; without, Ray is started here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run tasks of a known length on several engines, and say what these add.

    Example: sercache bench engine --tasks 6 --seconds 10
    """
    from rich.table import Table

    from sercache.benchmarks.engines import measure_engines

    from .console import command_context, console, print_json

    names = [name.strip() for name in engines.split(",") if name.strip()]
    with command_context() as context:
        timings = measure_engines(
            names,
            tasks=tasks,
            task_seconds=seconds,
            workers=processes,
            address=address,
            context=context,
        )
    if as_json:
        print_json(timings)
        return
    title = f"{tasks} tasks of {seconds:g} s, {processes} processes"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("engine")
    for heading in ("start s", "tasks s", "to the work alone"):
        table.add_column(heading, justify="right")
    for one in timings:
        table.add_row(one.name, f"{one.start_seconds:.1f}", f"{one.seconds:.1f}", f"{one.ratio:.3f}")
    console.print(table)
    for one in timings[1:]:
        console.print(
            f"{one.name} takes {one.seconds / timings[0].seconds:.3f} times as long as {timings[0].name}; "
            f"the goal is {_GOAL:g} for tasks of 10 s.",
            highlight=False,
        )
