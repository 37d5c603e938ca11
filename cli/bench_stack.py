"""``sercache bench stack`` and ``sercache bench stack-simulation``."""

from typing import TYPE_CHECKING, Annotated

import typer

from .console import command_context
from .options import Json
from .rendering import numbers, print_json, print_table, print_text

if TYPE_CHECKING:
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
            return _print_comparison(compared, title)
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
    _print_timings(timings, title)


def bench_stack_simulation(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows and corpora: a minute.")] = False,
    corpora: Annotated[
        int | None, typer.Option(min=4, help="Simulated for each line on intervals; else 60, or 12 if quick.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    as_json: Json = False,
) -> None:
    """Compare stackers, intervals and p-values with a simulated truth.

    Members are biased, unequally good and unequally sure; their best combination is known. Shows how stackers
    approach it as rows grow, how often 95 % intervals hold what is true, and whether p-values are uniform
    where nothing differs: on speakers apart, and by folds in turn.

    Example: sercache bench stack-simulation --corpora 200
    """
    from sercache.benchmarks import interval_simulation as simulation
    from sercache.benchmarks.stacking_simulation import learning_curves
    from sercache.recipe import StackingRecipe

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
    _print_curve(curve)
    _print_coverage(coverages)
    _print_p_values(p_values)


def _print_timings(timings: list["StackerTiming"], title: str) -> None:
    rows = [
        (
            timing.name,
            f"{timing.fit_seconds:.1f}",
            f"{timing.predict_seconds:.1f}",
            f"{timing.macro_f1:.3f}",
            f"{timing.peak_bytes / 1e6:.0f}",
            f"{timing.rows_bytes / 1e6:.0f}",
        )
        for timing in timings
    ]
    headings = numbers("fit s", "predict s", "macro-F1 on new rows", "peak MB", "of it rows MB")
    print_table(["stacker", *headings], rows, title=title)
    total = sum(timing.fit_seconds + timing.predict_seconds for timing in timings)
    print_text(f"All together {total:.0f} s; the goal on 2 cores is {_GOAL_SECONDS} s.")


def _print_comparison(compared: "ComparisonTiming", title: str) -> None:
    names = {"intervals": "intervals, calibration, curves, writing"}
    rows = [(names.get(part, part), f"{seconds:.1f}") for part, seconds in compared.parts.items()]
    print_table(["part", *numbers("s")], rows, title=title)
    print_text(
        f"The whole comparison, evaluated on {compared.judged_rows:,} rows of other speakers, "
        f"{compared.seconds:.0f} s; the goal on 2 cores is {_GOAL_SECONDS} s. "
        f"Peak {compared.peak_bytes / 1e6:.0f} MB, of it {compared.rows_bytes / 1e6:.0f} before it began."
    )


def _print_curve(curve: "LearningCurve") -> None:
    ranked = sorted(curve.macro_f1.items(), key=lambda item: -item[1][-1])
    rows = [(name, *(f"{score:.3f}" for score in scores), f"{curve.bayes:.3f}") for name, scores in ranked]
    headings = numbers(*(f"{size:,}" for size in curve.sizes), "Bayes rate")
    print_table(["stacker", *headings], rows, title="Macro-F1 on new speakers, by rows to fit on")


def _print_coverage(coverages: list["Coverage"]) -> None:
    rows = [
        (
            f"logistic, {_where(coverage.repeats)}",
            str(coverage.speakers),
            f"{coverage.score:.1%}",
            f"{coverage.difference:.1%}",
        )
        for coverage in coverages
    ]
    title = f"95 % intervals that hold the truth, of {coverages[0].corpora} corpora; wanted: 95 %"
    print_table(["evaluated", *numbers("speakers", "macro-F1", "difference")], rows, title=title)


def _print_p_values(simulations: list["NullPValues"]) -> None:
    rows = [
        (
            f"{simulated.stacker} twice, {_where(simulated.repeats)}",
            str(simulated.speakers),
            f"{simulated.share_below(0.05):.1%}",
            f"{simulated.share_below(0.01):.1%}",
            f"{simulated.distance:.3f}",
        )
        for simulated in simulations
    ]
    count = len(simulations[0].p_values)
    title = f"P-values of no difference, of {count} corpora; wanted: 5 %, 1 %, 0"
    headings = numbers("speakers", "p < .05", "p < .01", "distance to uniform")
    print_table(["evaluated", *headings], rows, title=title)


def _where(repeats: int | None) -> str:
    return "on speakers apart" if repeats is None else f"folds in turn, {repeats} times"
