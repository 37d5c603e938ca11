"""``sercache ablate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sercache.events import Context

from .common_options import Json
from .engine_options import Address, EngineName, engine_choice

if TYPE_CHECKING:
    from rich.table import Table

    from sercache.evaluation.bootstrap import Difference, Estimate
    from sercache.experiments.ablation_report import AblationReport, VariantResult


def ablate(
    recipe_path: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, .yaml.")],
    member: Annotated[
        str | None,
        typer.Option("--member", "-m", help="The member to take things out of; else the first deepser."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant.")] = 3,
    variants: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="hard-targets, late-fusion, no-mixup, ...; else all."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The run's folder; else the recipe's output + -ablation."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that train side by side; else one per core, on a GPU one in all."
        ),
    ] = None,
    as_json: Json = False,
    engine: EngineName = "auto",
    address: Address = None,
) -> None:
    """Take MEDUSA's ingredients out of a member, one at a time, and say which of them pay on this corpus.

    Trains each variant over all seeds and folds, from the cache, and compares out-of-fold macro-F1 (the mean
    CCC, if the corpus has attributes alone).
    Intervals are over speakers; the paper's figures and a linear baseline stand beside them.
    Writes ablation.csv and ablation.json.

    The paper's variants: hard-targets, late-fusion, no-mixup, no-multitask, no-stage-2.
    Our own: no-agreement-dropped, no-class-weights, speaker-normalization. One that would change nothing is
    skipped.

    Interrupt it as you like: the same command goes on. Other variants or seeds want another --output.

    Example: sercache ablate recipe.yaml --seeds 5
    """
    from sercache.events import stop_flag
    from sercache.experiments.ablation import run_ablation
    from sercache.experiments.ablation_design import design_ablation
    from sercache.files import read_json
    from sercache.recipe import load_recipe

    from .console import print_json
    from .live_training import live_training

    chosen = None if variants is None else [name.strip() for name in variants.split(",")]
    design = design_ablation(
        load_recipe(recipe_path), member=member, seeds=seeds, variants=chosen, output=output
    )
    folds = [
        f"{one.name}/fold-{fold}"
        for one in design.recipe.members
        for fold in range(design.recipe.folds.count)
    ]
    with stop_flag() as should_stop, live_training(folds, should_stop) as listener:
        report = run_ablation(
            design,
            device=device,
            workers=workers,
            engine=engine_choice(engine, address),
            context=Context(listener=listener, should_stop=should_stop),
        )
    if as_json:
        print_json(read_json(report.json_path))
    else:
        _show(report)


def _show(report: "AblationReport") -> None:
    from .console import console

    console.print(_table(report))
    for result in report.variants:
        if result.note:
            style = "red" if result.state == "failed" else "dim"
            line = f"{result.name} {result.state}: {result.note}"
            console.print(line, style=style, markup=False, highlight=False)
    console.print(
        f"Member {report.member}, {report.rows} out-of-fold rows with {report.primary.needs} that all have. "
        f"{report.primary.title}: mean and standard deviation over seeds. Intervals: 95 %, over speakers. p: "
        "that speakers, or the luck of the seeds (with one order of rows), make the difference; "
        "Holm-corrected. Paper: on MSP-Podcast.",
        style="dim",
        markup=False,
        highlight=False,
    )
    for sentence in ("", *report.verdict, ""):
        console.print(sentence, markup=False, highlight=False)
    for path, what in (
        (report.csv_path, "this table"),
        (report.json_path, "the same with every seed, for programs"),
    ):
        console.print(f"  {path}  [dim]{what}[/]", highlight=False, soft_wrap=True)


def _table(report: "AblationReport") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("variant", no_wrap=True)
    for heading in (
        f"{report.primary.name}\n± sd",
        "minus full\n[95 %]",
        "relative, %\n[95 %]",
        "p over\nspeakers",
        "p over\nseeds",
        "paper,\n%",
    ):
        table.add_column(heading, justify="right")
    for result in (report.full, *report.variants):
        table.add_row(*_cells(result), style="" if result.state == "trained" else "dim")
    if report.baseline is not None:
        minus_full = report.baseline.minus_full
        score = _decimals(report.baseline.score.value, 3)
        table.add_section()
        table.add_row("baseline", score, _with_interval(minus_full, 3), "", _p(minus_full.p_value), "", "")
    return table


def _cells(result: "VariantResult") -> list[str]:
    paper = "" if result.paper_change is None else f"{result.paper_change:+.1%}".rstrip("%")
    if result.state != "trained":
        return [result.name, result.state, "", "", "", "", paper]
    spread = "" if result.spread != result.spread else f" ±{_decimals(result.spread, 3)}"
    return [
        result.name,
        f"{_decimals(result.score, 3)}{spread}",
        _with_interval(result.difference, 3),
        _with_interval(result.relative, 1, 100),
        _p(result.p_speakers),
        _p(result.p_seeds),
        paper,
    ]


def _with_interval(scored: "Difference | Estimate | None", decimals: int, scale: float = 1.0) -> str:
    if scored is None or scored.value != scored.value:
        return ""
    value, low, high = (
        _decimals(scale * one, decimals, "+") for one in (scored.value, scored.low, scored.high)
    )
    return value if scored.low != scored.low else f"{value} \\[{low},{high}]"


def _decimals(value: float, decimals: int, sign: str = "") -> str:
    """Return a number; a share without the zero before its point: .525, -.012."""
    text = format(value, f"{sign}.{decimals}f")
    return text.replace("0.", ".", 1) if decimals > 2 and text.lstrip("+-").startswith("0.") else text


def _p(value: float) -> str:
    if value != value:
        return ""
    return "<.001" if value < 0.001 else _decimals(value, 3)
