"""``sercache bench stack`` and ``sercache bench stack-simulation``."""

from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from sercache.benchmarks.interval_simulation import Coverage, NullPValues
    from sercache.benchmarks.stacking import ComparisonTiming, StackerTiming
    from sercache.benchmarks.stacking_simulation import LearningCurve

_GOAL_SECONDS = 300
_REPEATS = 3


def bench_stack(
    rows: Annotated[int, typer.Option(min=1000, help="To fit on.")] = 100_000,
    members: Annotated[int, typer.Option(min=1, help="To combine.")] = 14,
    classes: Annotated[int, typer.Option(min=2, help="To tell apart.")] = 8,
    attributes: Annotated[int, typer.Option(min=0, help="To predict beside them.")] = 3,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole", help="Instead: a whole comparison with a test split, as sercache stack does."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fit and apply every stacker on simulated rows, each in a process of its own; or compare them all.

    Example: sercache bench stack --rows 100000 --members 14

    Example: sercache bench stack --whole
    """
    from sercache.benchmarks.stacking import benchmark_comparison, benchmark_stacking
    from sercache.recipe import StackingRecipe

    from .console import command_context, print_json

    title = f"{rows:,} rows x {members} members x {classes + attributes} outputs"
    with command_context() as context:
        if whole:
            compared = benchmark_comparison(
                rows,
                members,
                classes,
                attributes,
                StackingRecipe(),
                context=context,
            )
            if as_json:
                return print_json(compared)
            return _show_comparison(compared, title)
        timings = benchmark_stacking(
            rows,
            members,
            classes,
            attributes,
            StackingRecipe().stackers,
            context=context,
        )
    if as_json:
        print_json(timings)
        return
    _show_timings(timings, title)


def bench_stack_simulation(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows and corpora: a minute.")] = False,
    corpora: Annotated[
        int | None, typer.Option(min=4, help="Simulated for each line on intervals; else 60, or 12 if quick.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    as_json: Json = False,
) -> None:
    """Hold stackers, intervals and p-values against a simulated truth.

    Members are biased, unequally good and unequally sure; their best combination is known. Shows how stackers
    approach it as rows grow, how often 95 % intervals hold what is true, and whether p-values are uniform
    where nothing differs: on speakers apart, and by folds in turn.

    Example: sercache bench stack-simulation --corpora 200
    """
    from sercache.benchmarks import interval_simulation as simulation
    from sercache.benchmarks.stacking_simulation import learning_curves
    from sercache.recipe import StackingRecipe

    from .console import command_context, print_json

    sizes = (200, 800, 3200) if quick else (200, 800, 3200, 12_800, 51_200)
    corpora = corpora or (12 if quick else 60)
    with command_context() as context:
        curve = learning_curves(
            sizes,
            StackingRecipe().stackers,
            seed=seed,
            context=context,
        )
        coverages = [
            simulation.interval_coverage(
                speakers,
                corpora,
                repeats=repeats,
                seed=seed,
                context=context,
            )
            for repeats, counts in ((None, (10, 30, 90)), (_REPEATS, (10, 30)))
            for speakers in counts
        ]
        p_values = [
            simulation.null_p_values(
                speakers,
                2 * corpora,
                stacker=stacker,
                repeats=repeats,
                seed=seed,
                context=context,
            )
            for stacker, repeats in (("soft-vote", None), ("lightgbm", None), ("logistic", _REPEATS))
            for speakers in (10, 30)
        ]
    if as_json:
        print_json({"curve": curve, "coverages": coverages, "p_values": p_values})
        return
    _show_curve(curve)
    _show_coverage(coverages)
    _show_p_values(p_values)


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


def _show_comparison(compared: "ComparisonTiming", title: str) -> None:
    from rich.table import Table

    from .console import console

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("part")
    table.add_column("s", justify="right")
    for part, seconds in compared.parts.items():
        name = "intervals, calibration, curves, writing" if part == "intervals" else part
        table.add_row(name, f"{seconds:.1f}")
    console.print(table)
    console.print(
        f"The whole comparison, judged on {compared.judged_rows:,} rows of other speakers, "
        f"{compared.seconds:.0f} s; the goal on 2 cores is {_GOAL_SECONDS} s. "
        f"Peak {compared.peak_bytes / 1e6:.0f} MB, of it {compared.rows_bytes / 1e6:.0f} before it began.",
        highlight=False,
    )


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


def _show_coverage(coverages: list["Coverage"]) -> None:
    from .console import console

    table = _table(f"95 % intervals that hold the truth, of {coverages[0].corpora} corpora; wanted: 95 %")
    for heading in ("speakers", "macro-F1", "difference"):
        table.add_column(heading, justify="right")
    for one in coverages:
        figures = (str(one.speakers), f"{one.score:.1%}", f"{one.difference:.1%}")
        table.add_row(f"logistic, {_where(one.repeats)}", *figures)
    console.print(table)


def _show_p_values(p_values: list["NullPValues"]) -> None:
    from .console import console

    count = len(p_values[0].p_values)
    table = _table(f"P-values of no difference, of {count} corpora; wanted: 5 %, 1 %, 0")
    for heading in ("speakers", "p < .05", "p < .01", "distance to uniform"):
        table.add_column(heading, justify="right")
    for one in p_values:
        table.add_row(
            f"{one.stacker} twice, {_where(one.repeats)}",
            str(one.speakers),
            f"{one.share_below(0.05):.1%}",
            f"{one.share_below(0.01):.1%}",
            f"{one.distance:.3f}",
        )
    console.print(table)


def _table(title: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("judged")
    return table


def _where(repeats: int | None) -> str:
    return "on speakers apart" if repeats is None else f"folds in turn, {repeats} times"
