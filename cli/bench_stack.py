"""``sercache bench stack`` and ``sercache bench stack-simulation``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sercache.benchmarks.stacking import StackerTiming
    from sercache.benchmarks.stacking_simulation import Coverage, LearningCurve, NullPValues

_GOAL_SECONDS = 300


def bench_stack(
    rows: Annotated[int, typer.Option(min=1000, help="To fit on.")] = 100_000,
    members: Annotated[int, typer.Option(min=1, help="To combine.")] = 14,
    classes: Annotated[int, typer.Option(min=2, help="To tell apart.")] = 8,
    attributes: Annotated[int, typer.Option(min=0, help="To predict beside them.")] = 3,
) -> None:
    """Fit and apply every stacker on simulated rows, each in a process of its own.

    Example: sercache bench stack --rows 100000 --members 14
    """
    from sercache.benchmarks.stacking import benchmark_stacking
    from sercache.interrupts import stop_flag
    from sercache.recipe import StackingRecipe

    from .console import progress_listener

    with stop_flag() as should_stop, progress_listener() as listener:
        timings = benchmark_stacking(
            rows,
            members,
            classes,
            attributes,
            StackingRecipe().stackers,
            listener=listener,
            should_stop=should_stop,
        )
    _show_timings(timings, f"{rows:,} rows x {members} members x {classes + attributes} outputs")


def bench_stack_simulation(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows and corpora: a minute.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
) -> None:
    """Hold stackers, intervals and p-values against a simulated truth.

    Members are biased, unequally good and unequally sure; their best combination is known. Shows how stackers
    approach it as rows grow, how often 95 % intervals hold what is true, and whether p-values are uniform
    where nothing differs.

    Example: sercache bench stack-simulation
    """
    from sercache.benchmarks import stacking_simulation as simulation
    from sercache.interrupts import stop_flag
    from sercache.recipe import StackingRecipe

    from .console import progress_listener

    sizes = (200, 800, 3200) if quick else (200, 800, 3200, 12_800, 51_200)
    corpora = 40 if quick else 200
    with stop_flag() as should_stop, progress_listener() as listener:
        curve = simulation.learning_curves(
            sizes, StackingRecipe().stackers, seed=seed, listener=listener, should_stop=should_stop
        )
        coverages = [
            simulation.interval_coverage(
                speakers, corpora, seed=seed, listener=listener, should_stop=should_stop
            )
            for speakers in (10, 30, 90)
        ]
        p_values = [
            simulation.null_p_values(
                speakers, 2 * corpora, seed=seed, listener=listener, should_stop=should_stop
            )
            for speakers in (10, 30, 90)
        ]
    _show_curve(curve)
    _show_truth(coverages, p_values, corpora)


def _show_timings(timings: list["StackerTiming"], title: str) -> None:
    from rich.table import Table

    from .console import console

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("stacker")
    for heading in ("fit s", "predict s", "macro-F1 on new rows", "peak MB", "of it rows MB"):
        table.add_column(heading, justify="right")
    for one in timings:
        table.add_row(
            one.name,
            f"{one.fit_seconds:.1f}",
            f"{one.predict_seconds:.1f}",
            f"{one.macro_f1:.3f}",
            f"{one.peak_bytes / 1e6:.0f}",
            f"{one.rows_bytes / 1e6:.0f}",
        )
    console.print(table)
    total = sum(one.fit_seconds + one.predict_seconds for one in timings)
    console.print(f"All together {total:.0f} s; the goal on 2 cores is {_GOAL_SECONDS} s.", highlight=False)


def _show_curve(curve: "LearningCurve") -> None:
    from rich.table import Table

    from .console import console

    table = Table(
        box=None, pad_edge=False, title="Macro-F1 on new speakers, by rows to fit on", title_justify="left",
        title_style="bold",
    )  # fmt: skip
    table.add_column("stacker")
    for size in curve.sizes:
        table.add_column(f"{size:,}", justify="right")
    table.add_column("Bayes rate", justify="right")
    for name, scores in sorted(curve.macro_f1.items(), key=lambda one: -one[1][-1]):
        table.add_row(name, *(f"{score:.3f}" for score in scores), f"{curve.bayes:.3f}")
    console.print(table)


def _show_truth(coverages: list["Coverage"], p_values: list["NullPValues"], corpora: int) -> None:
    from rich.table import Table

    from .console import console

    title = f"95 % intervals that hold the truth ({corpora} corpora); p-values of none ({2 * corpora})"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("speakers", justify="right")
    for heading in ("macro-F1", "difference", "p < .05", "p < .01", "distance to uniform"):
        table.add_column(heading, justify="right")
    for coverage, null in zip(coverages, p_values, strict=True):
        table.add_row(
            str(coverage.speakers),
            f"{coverage.score:.1%}",
            f"{coverage.difference:.1%}",
            f"{null.share_below(0.05):.1%}",
            f"{null.share_below(0.01):.1%}",
            f"{null.distance:.3f}",
        )
    console.print(table)
    console.print("Wanted: 95 %, 95 %, 5 %, 1 %, 0.", style="dim", highlight=False)
