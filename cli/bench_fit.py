"""``sercache bench fit``."""

from typing import Annotated

import typer

from .common_options import Json

_FEW_ROWS = 1500
_FEW_SECONDS, _MANY_SECONDS, _MOST_GB = 2.0, 300.0, 3.0


def bench_fit(
    rows: Annotated[int, typer.Option(min=100, help="Training clips.")] = 1000,
    numbers: Annotated[int, typer.Option(min=14, help="Pooled numbers of each clip.")] = 14_000,
    heads: Annotated[str, typer.Option(metavar="A,B", help="Closed-form heads.")] = "ridge,logistic",
    rival: Annotated[
        bool, typer.Option("--rival/--no-rival", help="Also scikit-learn's grid search; of few rows only.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Fit closed-form heads on made-up pooled statistics, as one fold of a run is fitted.

    Example: sercache bench fit --rows 1000 --numbers 14000

    Example: sercache bench fit --rows 100000 --numbers 7000 --heads ridge --no-rival
    """
    from rich.table import Table

    from sercache.benchmarks.closed_form import measure_fits

    from .console import command_context, console, print_json

    names = tuple(name.strip() for name in heads.split(",") if name.strip())
    with command_context() as context:
        timings = measure_fits(
            rows,
            numbers,
            heads=names,
            rival=rival and rows <= 2 * _FEW_ROWS,
            context=context,
        )
    if as_json:
        print_json(timings)
        return
    title = f"{rows:,} rows of {numbers:,} pooled numbers"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("fit")
    for heading in ("seconds", "macro-F1, speakers left out", "peak memory GB"):
        table.add_column(heading, justify="right")
    for timing in timings:
        score = "" if timing.macro_f1 != timing.macro_f1 else f"{timing.macro_f1:.3f}"
        table.add_row(timing.name, f"{timing.seconds:.2f}", score, f"{timing.peak_bytes / 1e9:.2f}")
    console.print(table)
    goal = f"{_FEW_SECONDS:g} s" if rows <= _FEW_ROWS else f"{_MANY_SECONDS:g} s and {_MOST_GB:g} GB"
    console.print(f"The goal for a fit of this size is {goal} on two idle cores.", highlight=False)
