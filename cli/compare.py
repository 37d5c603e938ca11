"""``sercache compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import progress_listener
from .options import Json, Page
from .rendering import (
    Column,
    numbers,
    print_json,
    print_line,
    print_note,
    print_paths,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from sercache.reporting.run_comparison import Entry, RunComparison

_LONGEST_VALUE = 40


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN1 RUN2...", help="Stacked runs; the others are held against the first."),
    ],
    output: Page = None,
    as_json: Json = False,
) -> None:
    """Compare runs: what differs in their recipes, and what it did, on the rows that all of them scored.

    Shows the recommended meta-level, the soft vote, the best single member and the linear baseline of each
    run, with paired 95 % intervals over speakers and Holm-corrected p-values.

    Example: sercache compare runs/a runs/b -o comparison.html
    """
    from sercache.files import write_atomically
    from sercache.reporting import run_comparison
    from sercache.reporting.blocks import render
    from sercache.reporting.comparison_page import comparison_page
    from sercache.run import Run

    with progress_listener() as listener:
        comparison = run_comparison.compare_runs([Run(run) for run in runs], listener)
    if output is not None:
        write_atomically(output, render(comparison_page(comparison)))
    if as_json:
        print_json(run_comparison.as_json(comparison))
        return
    _print_comparison(comparison)
    if output is not None:
        print_paths([(output, "the same in pictures")])


def _print_comparison(comparison: "RunComparison") -> None:
    for differences in (comparison.recipe_differences, comparison.setting_differences):
        if differences:
            columns = [Column(name, max_width=_LONGEST_VALUE) for name in comparison.runs]
            print_table(["differs", *columns], [(found.key, *found.values) for found in differences])
            print_line()
    _print_scores(comparison)
    linear = ""
    if any(entry.to_baseline for entry in comparison.entries):
        linear = " Minus baseline: the linear one of the same run; ? where the difference is not clear."
    print_note(
        f"{comparison.rows} shared rows of {comparison.speakers} speakers. Intervals: 95 %, over speakers. "
        f"p is Holm-corrected. * recommended.{linear}"
    )
    for sentence in ("", *comparison.verdict):
        print_text(sentence)
    for note in comparison.notes:
        print_text(note, "yellow")


def _print_scores(comparison: "RunComparison") -> None:
    from sercache.reporting.wording import interval, p_value

    beside = {"uar": "UAR", "ece": "ECE"}
    if "uar" not in comparison.entries[0].scores:  # attributes alone
        scores = comparison.entries[0].scores
        beside = {name: f"CCC\n{name.removeprefix('ccc:')[:3]}" for name in scores if ":" in name}
    primary = comparison.primary
    has_baseline = any(entry.to_baseline for entry in comparison.entries)
    headings = [f"{primary.name} [95 %]", *beside.values(), "minus the first", "p"]
    headings += ["minus\nbaseline"] if has_baseline else []
    rows = []
    for entry in comparison.entries:
        difference = entry.differences.get(primary.key)
        rows.append(
            (
                entry.run,
                f"{entry.stacker} *" if entry.kind == "recommended" else entry.stacker,
                interval(entry.scores[primary.key]),
                *(f"{entry.scores[name].value:.3f}" for name in beside),
                "" if difference is None else interval(difference, "+"),
                p_value(entry.p_value).text,
                *([_to_baseline(entry)] if has_baseline else []),
            )
        )
    columns = [Column("run"), Column("meta-level", no_wrap=True, overflow="ellipsis")]
    print_table([*columns, *numbers(*headings, no_wrap=True)], rows, is_dense=True)


def _to_baseline(entry: "Entry") -> str:
    """Return a difference without its interval, for which there is no room; ``?`` where it is not clear."""
    difference = entry.to_baseline
    if difference is None:
        return ""
    return f"{difference.value:+.3f}{'' if difference.is_clear else ' ?'}"
