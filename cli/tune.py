"""``sercache tune``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Json
from .engine_options import Address, EngineName, engine_choice

if TYPE_CHECKING:
    from rich.table import Table

    from sercache.experiments.tuning_report import TuningReport

_SHOWN_TRIALS = 5
_SHOWN_IMPORTANCES = 5


def tune(
    recipe_path: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, .yaml.")],
    member: Annotated[
        str | None, typer.Option("--member", "-m", help="The member to search for; else the first.")
    ] = None,
    space_path: Annotated[
        Path | None,
        typer.Option("--space", metavar="FILE", help="What to search, .yaml; else what suits the head."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="In all, those of earlier sittings counted.")] = 30,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Inner folds; else as many as the recipe has.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="MINUTES", min=0, help="Begin no trial after these minutes.")
    ] = None,
    reserve: Annotated[
        float, typer.Option(help="Share of the rows set aside for the verdict where there is no test split.")
    ] = 0.2,
    seed: Annotated[int | None, typer.Option(help="Of the suggestions; else the recipe's.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The search's folder; else the recipe's output + -tuning."),
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
    """Search for a member's best settings on inner folds, and judge them on rows that no trial saw.

    A linear baseline on the same features is judged on them too.

    These rows are the test split; without one, speakers that are set aside before the search. Writes
    tuning.csv, tuning.json and best.yaml, the recipe with what was found. Interrupt it as you like: the same
    command goes on. Another recipe, space or seed wants another --output.

    A space file has a line per key:

    - training.stage1.learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}
    - training.patience: {low: 4, high: 16, step: 4}
    - options.width: {choices: [64, 128]}

    Example: sercache tune recipe.yaml --member fusion --trials 50
    """
    from sercache.experiments.search_space import load_space
    from sercache.experiments.tuning import run_tuning
    from sercache.experiments.tuning_design import design_tuning
    from sercache.experiments.tuning_study import load_optuna
    from sercache.files import read_json
    from sercache.recipe import load_recipe

    from .console import command_context, print_json

    load_optuna()
    design = design_tuning(
        load_recipe(recipe_path),
        member=member,
        space=None if space_path is None else load_space(space_path),
        folds=folds,
        seed=seed,
        reserve=reserve,
        output=output,
    )
    with command_context() as context:
        report = run_tuning(
            design,
            trials=trials,
            timeout_seconds=None if timeout is None else 60 * timeout,
            device=device,
            workers=workers,
            engine=engine_choice(engine, address),
            context=context,
        )
    if as_json:
        print_json(read_json(report.json_path))
    else:
        _show(report, recipe_path)


def _show(report: "TuningReport", recipe_path: Path) -> None:
    from .console import console, say_next

    console.print(_table(report))
    failed = len(report.trials) - len(report.ranked)
    console.print(
        f"Member {report.member}: {len(report.ranked)} trials, {failed} failed. {report.primary.title}: out "
        "of fold, on the inner folds.",
        style="dim",
        markup=False,
        highlight=False,
    )
    if report.importances:
        mattered = list(report.importances.items())[:_SHOWN_IMPORTANCES]
        listed = ", ".join(f"{key} {share:.0%}" for key, share in mattered)
        console.print(f"What mattered: {listed}", style="dim", markup=False, highlight=False)
    for sentence in ("", *report.verdict, ""):
        console.print(sentence, markup=False, highlight=False)
    for path, what in (
        (report.csv_path, "all trials"),
        (report.json_path, "the verdict, for programs"),
        (report.best_path, "the recipe with what was found"),
    ):
        console.print(f"  {path}  [dim]{what}[/]", highlight=False, soft_wrap=True)
    recommended = report.best_path if report.beats_recipe else recipe_path
    say_next(f"sercache train-ensemble {recommended}")


def _table(report: "TuningReport") -> "Table":
    """One column per trial, the best first: there are more keys than fit side by side."""
    from rich.table import Table

    shown = report.ranked[:_SHOWN_TRIALS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    for trial in shown:
        table.add_column(f"trial {trial.number}", justify="right")
    scores = [f"{trial.score:.3f}" for trial in shown]
    if report.reserved_scores.baseline is not None:
        table.add_column("baseline", justify="right")
        scores.append(f"{report.baseline_score:.3f}")
    table.add_row(report.primary.name, *scores, style="bold")
    table.add_row("seconds", *(f"{trial.seconds:.1f}" for trial in shown))
    for key in report.best.settings:
        table.add_row(key, *(_value(trial.settings[key]) for trial in shown))
    return table


def _value(setting: int | float | str | bool) -> str:
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)
