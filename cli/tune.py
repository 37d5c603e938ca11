"""``sercache tune``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import command_context
from .options import Address, Device, Engine, Json, Recipe, Workers, engine_choice
from .rendering import (
    Row,
    numbers,
    print_json,
    print_next,
    print_note,
    print_paths,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from sercache.experiments.tuning_report import TuningReport

_SHOWN_TRIALS = 5
_SHOWN_IMPORTANCES = 5


def tune(
    recipe_path: Recipe,
    member: Annotated[
        str | None, typer.Option("--member", "-m", help="The member to search for; else the first.")
    ] = None,
    space_path: Annotated[
        Path | None,
        typer.Option("--space", metavar="FILE", help="What to search, .yaml; else what suits the head."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="In all, those of earlier calls counted.")] = 30,
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
    device: Device = "auto",
    workers: Workers = None,
    as_json: Json = False,
    engine: Engine = "auto",
    address: Address = None,
) -> None:
    """Search for a member's best settings on inner folds, and evaluate them on rows that no trial saw.

    A linear baseline on the same features is evaluated on them too.

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
        _print_report(report, recipe_path)


def _print_report(report: "TuningReport", recipe_path: Path) -> None:
    _print_trials(report)
    failed = len(report.trials) - len(report.ranked)
    print_note(
        f"Member {report.member}: {len(report.ranked)} trials, {failed} failed. {report.primary.title}: out "
        "of fold, on the inner folds."
    )
    if report.importances:
        important = list(report.importances.items())[:_SHOWN_IMPORTANCES]
        print_note(f"What mattered: {', '.join(f'{key} {share:.0%}' for key, share in important)}")
    for sentence in ("", *report.verdict, ""):
        print_text(sentence)
    print_paths(
        [
            (report.csv_path, "all trials"),
            (report.json_path, "the verdict, for programs"),
            (report.best_path, "the recipe with what was found"),
        ]
    )
    recommended = report.best_path if report.beats_recipe else recipe_path
    print_next(f"sercache train-ensemble {recommended}")


def _print_trials(report: "TuningReport") -> None:
    """Print one column per trial, the best first: there are more keys than fit side by side."""
    trials = report.ranked[:_SHOWN_TRIALS]
    headings = [f"trial {trial.number}" for trial in trials]
    scores = [f"{trial.score:.3f}" for trial in trials]
    if report.reserved_scores.baseline is not None:
        headings.append("baseline")
        scores.append(f"{report.baseline_score:.3f}")
    rows = [
        Row((report.primary.name, *scores), "bold"),
        Row(("seconds", *(f"{trial.seconds:.1f}" for trial in trials))),
        *(Row((key, *(_value(trial.settings[key]) for trial in trials))) for key in report.best.settings),
    ]
    print_table(["", *numbers(*headings)], rows)


def _value(setting: int | float | str | bool) -> str:
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)
