"""``sercache train-ensemble``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .live import fold_names, training_context
from .options import Address, Device, Engine, Json, Recipe, Workers, engine_choice
from .rendering import (
    Column,
    Row,
    numbers,
    print_json,
    print_line,
    print_next,
    print_note,
    print_paths,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from sercache.engines.task_range import TaskRange
    from sercache.training.ensemble import EnsembleReport
    from sercache.training.members import MemberReport

_NAME_WIDTH = 20
_DIFFERENCE_WIDTH = len("+.000 [+.000, +.000]")


def train_ensemble(
    recipe_path: Recipe,
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
    task_range: Annotated[
        str | None,
        typer.Option(
            metavar="3/16",
            help="Train only this part of the folds; env in a job array (Slurm, SGE, LSF; PBS: env/16).",
        ),
    ] = None,
    engine: Engine = "auto",
    address: Address = None,
) -> None:
    """Train every member of a recipe on every fold, from the cache, and write out-of-fold posteriors.

    First comes the baseline, in seconds: a linear model on pooled statistics of all features. The table shows
    how far each member is above it.

    Members in closed form come next and take seconds; the live table ranks what is finished. Interrupt it as
    you like: sercache stack works on the finished members, and the same command goes on after the last
    finished epoch.

    Example: sercache train-ensemble recipe.yaml
    """
    from sercache.engines.task_range import parse_task_range
    from sercache.recipe import load_recipe
    from sercache.stacking.registry import check_recipe_names
    from sercache.training.ensemble import train_ensemble as train
    from sercache.training.ensemble import train_ensemble_part

    recipe = load_recipe(recipe_path)
    check_recipe_names(recipe)
    names = fold_names(recipe.members, recipe.folds.count)
    choice = engine_choice(engine, address)
    part = None if task_range is None else parse_task_range(task_range, os.environ)
    with training_context(names if part is None else part.part(names), recipe.output) as context:
        if part is not None:
            finished, total = train_ensemble_part(
                recipe, part, device=device, workers=workers, engine=choice, context=context
            )
        else:
            report = train(recipe, device=device, workers=workers, engine=choice, context=context)
    if part is not None:
        _print_part(part, finished, total, recipe_path)
    elif as_json:
        print_json(report)
    else:
        _print_report(report, recipe.output)


def _print_part(part: "TaskRange", finished: int, total: int, recipe_path: Path) -> None:
    print_line(f"Part {part} is trained; {finished} of {total} folds of all parts are.")
    print_next(f"sercache train-ensemble {recipe_path}  (trains what is missing, and gathers the posteriors)")


def _print_report(report: "EnsembleReport", output: Path) -> None:
    from sercache.recipe import speaker_note

    _print_scores(report)
    print_note("Out-of-fold: each row was predicted by a model that was not trained on its speaker.")
    if report.baseline is not None:
        print_note(
            f"Minus baseline: {report.primary.name} on the same rows, with a 95 % interval over speakers. A "
            "member is above it where the interval is above zero and p < 0.05, Holm-corrected over the "
            "members."
        )
    if note := speaker_note(report.normalized_members):
        print_text(note)
    for member in report.members:
        if member.error:
            print_text(f"left out: {member.error}", "red")
    if report.baseline is not None:
        print_line(report.baseline.verdict)
    print_paths([(output / "members", "fold models and posteriors")])
    print_next(f"sercache stack {output}")


def _print_scores(report: "EnsembleReport") -> None:
    from sercache.reporting.wording import interval

    baseline, primary, has_classes = report.baseline, report.primary, report.num_classes > 0
    listed = [*report.members, *([baseline.member] if baseline is not None else [])]
    longest = max(len(member.name) for member in listed)
    columns = [Column("member", min_width=min(longest, _NAME_WIDTH))]
    columns += [Column("head"), Column("features")]
    columns += numbers("parameters", "rows", primary.name, *(["UAR"] if has_classes else []))
    if baseline is not None:
        columns.append(Column("minus baseline", is_number=True, min_width=_DIFFERENCE_WIDTH))

    def described(member: "MemberReport", name: str) -> list[str]:
        return [name, member.head, " + ".join(member.features), f"{member.parameters:,}"]

    def scored(member: "MemberReport", name: str, difference: str) -> list[str]:
        scores = (member.score(primary), *((member.uar,) if has_classes else ()))
        cells = [*described(member, name), f"{member.rows:,}", *(f"{score:.3f}" for score in scores)]
        return [*cells, difference] if baseline is not None else cells

    rows = []
    for member in report.members:
        if member.error:
            blank = ["-"] * (2 + has_classes + (baseline is not None))
            rows.append(Row([*described(member, member.name), *blank], "red"))
            continue
        difference = None if baseline is None else baseline.differences.get(member.name)
        # Without zeros before points, so that a row fits a terminal of 100 columns.
        minus = "" if difference is None else interval(difference, "+").replace("0.", ".")
        rows.append(Row(scored(member, member.name, minus)))
    if baseline is not None:
        name = f"baseline: {baseline.member.name}" if baseline.is_in_recipe else baseline.member.name
        rows.append(Row(scored(baseline.member, name, ""), "bold"))
    guess = ["mean rating", "", "", "", "", "0.000"]
    if has_classes:
        guess = ["majority class", *guess[1:5], f"{report.majority_macro_f1:.3f}"]
        guess.append(f"{1 / report.num_classes:.3f}")
    rows.append(Row(guess, "dim"))
    print_table(columns, rows, is_dense=True)
