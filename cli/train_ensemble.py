"""``sercache train-ensemble``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sercache.events import Context

from .common_options import Json
from .engine_options import Address, EngineName, engine_choice

if TYPE_CHECKING:
    from sercache.engines.task_range import TaskRange
    from sercache.training.ensemble import EnsembleReport
    from sercache.training.members import MemberReport

_NAME_WIDTH = 20
_DIFFERENCE_WIDTH = len("+.000 [+.000, +.000]")


def train_ensemble(
    recipe_path: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, .yaml.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that train side by side; else one per core, on a GPU one in all."
        ),
    ] = None,
    as_json: Json = False,
    task_range: Annotated[
        str | None,
        typer.Option(
            metavar="3/16",
            help="Train only this part of the folds; env in a job array (Slurm, SGE, LSF; PBS: env/16).",
        ),
    ] = None,
    engine: EngineName = "auto",
    address: Address = None,
) -> None:
    """Train every member of a recipe on every fold, from the cache, and write out-of-fold posteriors.

    First comes the baseline, in seconds: a linear model on pooled statistics of all features. The table says
    how far each member is above it.

    Members in closed form come next and take seconds; the live table ranks what is finished. Interrupt it as
    you like: sercache stack works on the finished members, and the same command goes on after the last
    finished epoch.

    Example: sercache train-ensemble recipe.yaml
    """
    from sercache.engines.task_range import parse_task_range
    from sercache.events import stop_flag
    from sercache.recipe import load_recipe
    from sercache.stacking.registry import check_recipe_names
    from sercache.training.ensemble import train_ensemble as train
    from sercache.training.ensemble import train_ensemble_part

    from .console import print_json
    from .live_training import live_training

    recipe = load_recipe(recipe_path)
    check_recipe_names(recipe)
    names = [f"{member.name}/fold-{fold}" for fold in range(recipe.folds.count) for member in recipe.members]
    choice = engine_choice(engine, address)
    part = None if task_range is None else parse_task_range(task_range, os.environ)
    shown = names if part is None else part.part(names)
    with stop_flag() as should_stop, live_training(shown, should_stop, recipe.output) as listener:
        if part is not None:
            finished, total = train_ensemble_part(
                recipe,
                part,
                device=device,
                workers=workers,
                engine=choice,
                context=Context(listener=listener, should_stop=should_stop),
            )
        else:
            report = train(
                recipe,
                device=device,
                workers=workers,
                engine=choice,
                context=Context(listener=listener, should_stop=should_stop),
            )
    if part is not None:
        _show_part(part, finished, total, recipe_path)
    elif as_json:
        print_json(report)
    else:
        _show(report, recipe.output)


def _show_part(part: "TaskRange", finished: int, total: int, recipe_path: Path) -> None:
    from .console import console

    console.print(
        f"Part {part} is trained; {finished} of {total} folds of all parts are.\n"
        f"Next: sercache train-ensemble {recipe_path}  (trains what is missing, and gathers the posteriors)",
        highlight=False,
        soft_wrap=True,
    )


def _show(report: "EnsembleReport", output: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from sercache.recipe import speaker_note
    from sercache.reporting.wording import interval

    from .console import console, say, say_next

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    baseline, primary = report.baseline, report.primary
    shown = [*report.members, *([baseline.member] if baseline is not None else [])]
    longest = max(len(member.name) for member in shown)
    table.add_column("member", overflow="fold", min_width=min(longest, _NAME_WIDTH))
    table.add_column("head")
    table.add_column("features", overflow="fold")
    has_classes = report.num_classes > 0
    for heading in ("parameters", "rows", primary.name, *(("UAR",) if has_classes else ())):
        table.add_column(heading, justify="right")
    if baseline is not None:
        table.add_column("minus baseline", justify="right", min_width=_DIFFERENCE_WIDTH)

    def add(member: "MemberReport", name: str, difference: str, style: str | None = None) -> None:
        described = (escape(name), member.head, " + ".join(member.features), f"{member.parameters:,}")
        scores = (member.score(primary), *((member.uar,) if has_classes else ()))
        compared = (difference,) if baseline is not None else ()
        table.add_row(
            *described, f"{member.rows:,}", *(f"{score:.3f}" for score in scores), *compared, style=style
        )

    for member in report.members:
        if member.error:
            described = (escape(member.name), member.head, " + ".join(member.features))
            blank = ("-",) * (1 + has_classes + (baseline is not None))
            table.add_row(*described, f"{member.parameters:,}", "-", *blank, style="red")
            continue
        difference = None if baseline is None else baseline.differences.get(member.name)
        # Without zeros before points, so that a row fits a terminal of 100 columns.
        minus = "" if difference is None else interval(difference, "+").replace("0.", ".")
        add(member, member.name, escape(minus))
    table.add_section()
    if baseline is not None:
        name = f"baseline: {baseline.member.name}" if baseline.is_in_recipe else baseline.member.name
        add(baseline.member, name, "", "bold")
    if has_classes:
        guessed = ["majority class", f"{report.majority_macro_f1:.3f}", f"{1 / report.num_classes:.3f}"]
    else:
        guessed = ["mean rating", "0.000"]
    table.add_row(guessed[0], *("",) * 4, *guessed[1:], style="dim")
    console.print(table)
    console.print("Out-of-fold: each row was predicted by a model that never heard its speaker.", style="dim")
    if baseline is not None:
        console.print(
            f"Minus baseline: {primary.name} on the same rows, with a 95 % interval over speakers. A member "
            "is above it where the interval is above zero and p < 0.05, Holm-corrected over the members.",
            style="dim",
            highlight=False,
        )
    if note := speaker_note(report.normalized_members):
        console.print(note, markup=False, highlight=False)
    for member in report.members:
        if member.error:
            console.print(f"left out: {member.error}", style="red", markup=False, highlight=False)
    if baseline is not None:
        say(baseline.verdict)
    console.print(
        f"  {output / 'members'}  [dim]fold models and posteriors[/]", highlight=False, soft_wrap=True
    )
    say_next(f"sercache stack {output}")
