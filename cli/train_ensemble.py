"""``sercache train-ensemble``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Json
from .engine_options import Address, EngineName, engine_choice

if TYPE_CHECKING:
    from sercache.engines.task_range import TaskRange
    from sercache.training.ensemble import EnsembleReport


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

    Members in closed form come first and take seconds; the live table ranks what is finished. Interrupt it as
    you like: sercache stack works on the finished members, and the same command goes on after the last
    finished epoch.

    Example: sercache train-ensemble recipe.yaml
    """
    from sercache.engines.task_range import parse_task_range
    from sercache.interrupts import stop_flag
    from sercache.recipe import load_recipe
    from sercache.recipe_names import check_names
    from sercache.training.ensemble import train_ensemble as train
    from sercache.training.ensemble import train_ensemble_part

    from .console import print_json
    from .live_training import live_training

    recipe = load_recipe(recipe_path)
    check_names(recipe)
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
                listener=listener,
                should_stop=should_stop,
            )
        else:
            report = train(
                recipe,
                device=device,
                workers=workers,
                engine=choice,
                listener=listener,
                should_stop=should_stop,
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
    from rich.table import Table

    from sercache.recipe import speaker_note

    from .console import console, say_next

    table = Table(box=None, pad_edge=False)
    table.add_column("member", overflow="fold")
    table.add_column("head")
    table.add_column("features", overflow="fold")
    has_classes = report.num_classes > 0
    for heading in ("parameters", "rows", *(("macro-F1", "UAR") if has_classes else ("mean CCC",))):
        table.add_column(heading, justify="right")
    for member in report.members:
        described = (member.name, member.head, " + ".join(member.features), f"{member.parameters:,}")
        if member.error:
            table.add_row(*described, "-", "-", *(("-",) if has_classes else ()), style="red")
        else:
            scores = (member.macro_f1, member.uar) if has_classes else (member.mean_ccc,)
            table.add_row(*described, f"{member.rows:,}", *(f"{score:.3f}" for score in scores))
    table.add_section()
    if has_classes:
        guessed = ["majority class", f"{report.majority_macro_f1:.3f}", f"{1 / report.num_classes:.3f}"]
    else:
        guessed = ["mean rating", "0.000"]
    table.add_row(guessed[0], *("",) * 4, *guessed[1:], style="dim")
    console.print(table)
    console.print("Out-of-fold: each row was predicted by a model that never heard its speaker.", style="dim")
    if note := speaker_note(report.normalized_members):
        console.print(note, markup=False, highlight=False)
    for member in report.members:
        if member.error:
            console.print(f"left out: {member.error}", style="red", markup=False, highlight=False)
    console.print(
        f"  {output / 'members'}  [dim]fold models and posteriors[/]", highlight=False, soft_wrap=True
    )
    say_next(f"sercache stack {output}")
