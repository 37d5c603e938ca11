"""``sercache compare``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common_options import Json

if TYPE_CHECKING:
    from rich.table import Table

    from sercache.reporting.recipe_differences import KeyDifference
    from sercache.reporting.run_comparison import Entry, RunComparison

_LONGEST_VALUE = 40


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN1 RUN2...", help="Stacked runs; the others are held against the first."),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write an HTML page.")] = None,
    as_json: Json = False,
) -> None:
    """Compare runs: what differs in their recipes, and what it did, on the rows that all of them judged.

    Shows the recommended meta-level, the soft vote, the best single member and the linear baseline of each
    run, with paired 95 % intervals over speakers and Holm-corrected p-values.

    Example: sercache compare runs/a runs/b -o comparison.html
    """
    from sercache.files import write_atomically
    from sercache.reporting import run_comparison
    from sercache.reporting.blocks import render
    from sercache.reporting.comparison_page import comparison_page
    from sercache.run import Run

    from .console import console, print_json, progress_listener

    with progress_listener() as listener:
        comparison = run_comparison.compare_runs([Run(run) for run in runs], listener)
    if output is not None:
        write_atomically(output, render(comparison_page(comparison)))
    if as_json:
        print_json(run_comparison.as_json(comparison))
        return
    _show(comparison)
    if output is not None:
        console.print(f"  {output}  [dim]the same in pictures[/]", highlight=False, soft_wrap=True)


def _show(comparison: "RunComparison") -> None:
    from .console import console

    for found in (comparison.recipe_differences, comparison.setting_differences):
        if found:
            console.print(_differences(comparison, found))
            console.print()
    console.print(_scores(comparison))
    linear = ""
    if any(entry.to_baseline for entry in comparison.entries):
        linear = " Minus baseline: the linear one of the same run; ? where the difference is not clear."
    console.print(
        f"{comparison.rows} shared rows of {comparison.speakers} speakers. Intervals: 95 %, over speakers. "
        f"p is Holm-corrected. * recommended.{linear}",
        style="dim",
        highlight=False,
    )
    for sentence in ("", *comparison.verdict):
        console.print(sentence, markup=False, highlight=False)
    for note in comparison.notes:
        console.print(note, style="yellow", markup=False, highlight=False)


def _differences(comparison: "RunComparison", found: "tuple[KeyDifference, ...]") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("differs", overflow="fold")
    for name in comparison.runs:
        table.add_column(escape(name), max_width=_LONGEST_VALUE, overflow="fold")
    for one in found:
        table.add_row(escape(one.key), *map(escape, one.values))
    return table


def _scores(comparison: "RunComparison") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    from sercache.reporting.wording import interval, p_value

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("run", overflow="fold")
    table.add_column("meta-level", no_wrap=True)
    beside = {"uar": "UAR", "ece": "ECE"}
    if "uar" not in comparison.entries[0].scores:  # attributes alone
        scores = comparison.entries[0].scores
        beside = {name: f"CCC\n{name.removeprefix('ccc:')[:3]}" for name in scores if ":" in name}
    primary = comparison.primary
    has_baseline = any(entry.to_baseline for entry in comparison.entries)
    headings = [f"{primary.name} [95 %]", *map(escape, beside.values()), "minus the first", "p"]
    for heading in (*headings, *(["minus\nbaseline"] if has_baseline else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in comparison.entries:
        difference = entry.differences.get(primary.key)
        what = f"{entry.stacker} *" if entry.kind == "recommended" else entry.stacker
        table.add_row(
            escape(entry.run),
            what,
            escape(interval(entry.scores[primary.key])),
            *(f"{entry.scores[name].value:.3f}" for name in beside),
            "" if difference is None else escape(interval(difference, "+")),
            p_value(entry.p_value).text,
            *([_to_baseline(entry)] if has_baseline else []),
        )
    return table


def _to_baseline(entry: "Entry") -> str:
    """Return a difference without its interval, for which there is no room; ``?`` where it is not clear."""
    difference = entry.to_baseline
    if difference is None:
        return ""
    return f"{difference.value:+.3f}{'' if difference.is_clear else ' ?'}"
