"""``sercache ablate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .live import fold_names, training_context
from .options import Address, Device, Engine, Json, Recipe, Workers, engine_choice, split_names
from .rendering import (
    Column,
    Row,
    decimal,
    interval,
    numbers,
    p_value,
    print_json,
    print_note,
    print_paths,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from sercache.experiments.ablation_report import AblationReport, VariantResult


def ablate(
    recipe_path: Recipe,
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
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
    engine: Engine = "auto",
    address: Address = None,
) -> None:
    """Take MEDUSA's ingredients out of a member, one at a time, and show which of them pay on this corpus.

    Trains each variant over all seeds and folds, from the cache, and compares out-of-fold macro-F1 (the mean
    CCC, if the corpus has attributes alone).
    Intervals are over speakers; the paper's figures and a linear baseline are beside them.
    Writes ablation.csv and ablation.json.

    The paper's variants: hard-targets, late-fusion, no-mixup, no-multitask, no-stage-2.
    Our own: no-agreement-dropped, no-class-weights, speaker-normalization. One that would change nothing is
    skipped.

    Interrupt it as you like: the same command goes on. Other variants or seeds want another --output.

    Example: sercache ablate recipe.yaml --seeds 5
    """
    from sercache.experiments.ablation import run_ablation
    from sercache.experiments.ablation_design import design_ablation
    from sercache.files import read_json
    from sercache.recipe import load_recipe

    chosen = None if variants is None else split_names(variants)
    design = design_ablation(
        load_recipe(recipe_path), member=member, seeds=seeds, variants=chosen, output=output
    )
    with training_context(fold_names(design.recipe.members, design.recipe.folds.count)) as context:
        report = run_ablation(
            design, device=device, workers=workers, engine=engine_choice(engine, address), context=context
        )
    if as_json:
        print_json(read_json(report.json_path))
    else:
        _print_report(report)


def _print_report(report: "AblationReport") -> None:
    columns = [
        Column("variant", no_wrap=True),
        *numbers(
            f"{report.primary.name}\n± sd",
            "minus full\n[95 %]",
            "relative, %\n[95 %]",
            "p over\nspeakers",
            "p over\nseeds",
            "paper,\n%",
        ),
    ]
    rows = [
        Row(_cells(result), "" if result.state == "trained" else "dim")
        for result in (report.full, *report.variants)
    ]
    if report.baseline is not None:
        minus_full = report.baseline.minus_full
        score = decimal(report.baseline.score.value)
        rows.append(
            Row(("baseline", score, interval(minus_full, "+"), "", p_value(minus_full.p_value), "", ""))
        )
    print_table(columns, rows, is_dense=True)
    for result in report.variants:
        if result.note:
            style = "red" if result.state == "failed" else "dim"
            print_text(f"{result.name} {result.state}: {result.note}", style)
    print_note(
        f"Member {report.member}, {report.rows} out-of-fold rows with {report.primary.needs} that all have. "
        f"{report.primary.title}: mean and standard deviation over seeds. Intervals: 95 %, over speakers. p: "
        "that speakers, or the luck of the seeds (with one order of rows), make the difference; "
        "Holm-corrected. Paper: on MSP-Podcast."
    )
    for sentence in ("", *report.verdict, ""):
        print_text(sentence)
    print_paths(
        [
            (report.csv_path, "this table"),
            (report.json_path, "the same with every seed, for programs"),
        ]
    )


def _cells(result: "VariantResult") -> list[str]:
    paper = "" if result.paper_change is None else f"{result.paper_change:+.1%}".rstrip("%")
    if result.state != "trained":
        return [result.name, result.state, "", "", "", "", paper]
    deviation = decimal(result.spread)
    return [
        result.name,
        f"{decimal(result.score)} ±{deviation}" if deviation else decimal(result.score),
        interval(result.difference, "+"),
        interval(result.relative, "+", 1, scale=100),
        p_value(result.p_speakers),
        p_value(result.p_seeds),
        paper,
    ]
